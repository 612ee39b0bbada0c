"""What is refused, with the field that is named and kube-apiserver's words."""

import copy

import pytest

from controlplane.api.kinds.registry import KINDS
from controlplane.api.kinds.shapes import unknown
from controlplane.api.schema.published import shape_of
from netplane.kube.resources import (
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
)
from tests.unit.controlplane_kinds.kind_samples import (
    deployment,
    endpoints,
    endpointslice,
    event,
    lease,
    made,
    namespace,
    node,
    pod,
    service,
)


def put(obj, path, value):
    """A deep copy with `path` ("spec.ports[0].port") set to value; `...` deletes."""
    changed = copy.deepcopy(obj)
    keys = [
        int(part) if part.isdigit() else part for part in path.replace("[", ".").replace("]", "").split(".")
    ]
    target = changed
    for key in keys[:-1]:
        target = target[key] if isinstance(key, int) else target.setdefault(key, {})
    if value is ...:
        del target[keys[-1]]
    elif isinstance(target, list) and keys[-1] == len(target):
        target.append(value)
    else:
        target[keys[-1]] = value
    return changed


def causes_of(resource, new, old=None):
    kind = KINDS[resource]
    kind.default(new)
    if old is None:
        kind.prepare_create(new)
    else:
        kind.prepare_update(new, old)
    return kind.validate(new, old)


SAMPLES = {
    PODS: pod(),
    SERVICES: service(),
    DEPLOYMENTS: deployment(),
    REPLICASETS: made(REPLICASETS, spec={k: v for k, v in deployment()["spec"].items() if k != "strategy"}),
    NODES: node(),
    NAMESPACES: namespace(),
    ENDPOINTSLICES: endpointslice(),
    ENDPOINTS: endpoints(),
    EVENTS: event(),
    LEASES: lease(),
}


@pytest.mark.parametrize("resource", SAMPLES, ids=lambda resource: resource.kind)
def test_a_good_object_is_good(resource):
    obj = copy.deepcopy(SAMPLES[resource])
    assert causes_of(resource, obj) == []
    assert causes_of(resource, copy.deepcopy(obj), obj) == []
    assert unknown(shape_of(resource), obj) == []


C = "spec.containers[0]"
T = "spec.template"
CREATE = [
    # metadata
    (PODS, "metadata.name", ..., "metadata.name", "Required value: name or generateName is required"),
    (PODS, "metadata.name", "Web", "metadata.name", "a lowercase RFC 1123 subdomain must consist of"),
    (PODS, "metadata.name", "a" * 254, "metadata.name", "must be no more than 253 characters"),
    (PODS, "metadata.namespace", "no.dots", "metadata.namespace", "a lowercase RFC 1123 label must"),
    (PODS, "metadata.labels", {"a b": "c"}, "metadata.labels", "name part must consist of alphanumeric"),
    (PODS, "metadata.labels", {"a": "c d"}, "metadata.labels", "a valid label must be an empty string or"),
    (PODS, "metadata.labels", {"a": 3}, "metadata.labels[a]", "Invalid value: 3: must be a string"),
    (PODS, "metadata.labels", {"a/b/c": ""}, "metadata.labels", "a qualified name must consist of"),
    (PODS, "metadata.labels", {"/b": ""}, "metadata.labels", "prefix part must be non-empty"),
    (PODS, "metadata.annotations", {"": "x"}, "metadata.annotations", "name part must be non-empty"),
    (PODS, "metadata.annotations", {"a": "x" * 262144}, "metadata.annotations", "Too long: may not be more"),
    (PODS, "metadata.finalizers", ["x y"], "metadata.finalizers[0]", "name part must"),
    (
        PODS,
        "metadata.ownerReferences",
        [{"kind": "X"}],
        "metadata.ownerReferences[0].uid",
        "must not be empty",
    ),
    (NODES, "metadata.namespace", "default", "metadata.namespace", "Forbidden: not allowed on this type"),
    (NAMESPACES, "metadata.name", "a.b", "metadata.name", "a lowercase RFC 1123 label must consist of"),
    (SERVICES, "metadata.name", "1st", "metadata.name", "a DNS-1035 label must consist of lower case"),
    # wrong types are named, never a crash
    (DEPLOYMENTS, "spec.replicas", "three", "spec.replicas", 'Invalid value: "three": must be an integer'),
    (DEPLOYMENTS, "spec.replicas", True, "spec.replicas", "Invalid value: true: must be an integer"),
    (DEPLOYMENTS, "spec.replicas", 2**40, "spec.replicas", "must be an integer between"),
    (DEPLOYMENTS, "spec", [], "spec", "Invalid value: []: must be an object"),
    (PODS, "spec.containers", {}, "spec.containers", "Invalid value: {}: must be a list"),
    (PODS, "spec.containers", [None], "spec.containers[0]", "Invalid value: null: must be a value"),
    (
        PODS,
        f"{C}.env",
        [{"name": "A", "value": 1}],
        f"{C}.env[0].value",
        "Invalid value: 1: must be a string",
    ),
    (PODS, f"{C}.command", "echo", f"{C}.command", 'Invalid value: "echo": must be a list'),
    (PODS, "metadata.creationTimestamp", "now", "metadata.creationTimestamp", "must be a time in RFC 3339"),
    (SERVICES, "spec.ports[0].port", "80", "spec.ports[0].port", 'Invalid value: "80": must be an integer'),
    (SERVICES, "spec.ports[0].targetPort", 1.5, "spec.ports[0].targetPort", "must be an integer or a string"),
    (SERVICES, "spec.selector", {"a": True}, "spec.selector[a]", "Invalid value: true: must be a string"),
    # pods
    (PODS, "spec.containers", [], "spec.containers", "Required value"),
    (PODS, f"{C}.name", "Web", f"{C}.name", "a lowercase RFC 1123 label must consist of"),
    (PODS, f"{C}.image", "", f"{C}.image", "Required value"),
    (
        PODS,
        "spec.containers[1]",
        {"name": "c", "image": "x"},
        "spec.containers[1].name",
        'Duplicate value: "c"',
    ),
    (PODS, f"{C}.ports", [{"containerPort": 0}], f"{C}.ports[0].containerPort", "Required value"),
    (
        PODS,
        f"{C}.ports",
        [{"containerPort": 70000}],
        f"{C}.ports[0].containerPort",
        "between 1 and 65535, inclus",
    ),
    (
        PODS,
        f"{C}.ports",
        [{"containerPort": 1, "protocol": "tcp"}],
        f"{C}.ports[0].protocol",
        'Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"',
    ),
    (
        PODS,
        f"{C}.ports",
        [{"containerPort": 1, "name": "web"}, {"containerPort": 2, "name": "web"}],
        f"{C}.ports[1].name",
        'Duplicate value: "web"',
    ),
    (PODS, f"{C}.ports", [{"containerPort": 1, "name": "a" * 16}], f"{C}.ports[0].name", "no more than 15"),
    (PODS, f"{C}.env", [{"name": ""}], f"{C}.env[0].name", "Required value"),
    (
        PODS,
        f"{C}.env",
        [{"name": "A=B"}],
        f"{C}.env[0].name",
        "a valid environment variable name must consist",
    ),
    (PODS, f"{C}.env", [{"name": "A", "valueFrom": {}}], f"{C}.env[0].valueFrom", "must specify one of"),
    (
        PODS,
        f"{C}.env",
        [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}],
        f"{C}.env[0].valueFrom.fieldRef.fieldPath",
        'Unsupported value: "spec.x"',
    ),
    (
        PODS,
        f"{C}.resources",
        {"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}},
        f"{C}.resources.requests",
        'Invalid value: "1500m": must be less than or equal to cpu limit of 1',
    ),
    (
        PODS,
        f"{C}.resources",
        {"limits": {"cpu": "lots"}},
        f"{C}.resources.limits[cpu]",
        "quantities must match",
    ),
    (
        PODS,
        f"{C}.resources",
        {"requests": {"memory": "-1"}},
        f"{C}.resources.requests[memory]",
        "greater than or",
    ),
    (
        PODS,
        f"{C}.resources",
        {"requests": {"gpu": 1}},
        f"{C}.resources.requests[gpu]",
        "must be a standard res",
    ),
    (
        PODS,
        f"{C}.volumeMounts",
        [{"name": "no", "mountPath": "/x"}],
        f"{C}.volumeMounts[0].name",
        "Not found",
    ),
    (PODS, f"{C}.readinessProbe", {}, f"{C}.readinessProbe", "Required value: must specify a handler type"),
    (
        PODS,
        f"{C}.readinessProbe",
        {"tcpSocket": {"port": 1}, "httpGet": {"port": 1}},
        f"{C}.readinessProbe.tcpSocket",
        "Forbidden: may not specify more than 1 handler type",
    ),
    (
        PODS,
        f"{C}.livenessProbe",
        {"tcpSocket": {"port": 1}, "successThreshold": 2},
        f"{C}.livenessProbe.successThreshold",
        "Invalid value: 2: must be 1",
    ),
    (
        PODS,
        f"{C}.livenessProbe",
        {"httpGet": {"port": 0}},
        f"{C}.livenessProbe.httpGet.port",
        "must be between 1 and 65535, inclusive",
    ),
    (
        PODS,
        f"{C}.readinessProbe",
        {"exec": {"command": ["x"]}, "periodSeconds": -1},
        f"{C}.readinessProbe.periodSeconds",
        "must be greater than or equal to 0",
    ),
    (PODS, "spec.restartPolicy", "Sometimes", "spec.restartPolicy", '"Always", "Never", "OnFailure"'),
    (
        PODS,
        "spec.dnsPolicy",
        "None",
        "spec.dnsConfig.nameservers",
        "must provide at least one DNS nameserver",
    ),
    (
        PODS,
        "spec.terminationGracePeriodSeconds",
        -1,
        "spec.terminationGracePeriodSeconds",
        "greater than or eq",
    ),
    (PODS, "spec.hostname", "a.b", "spec.hostname", "a lowercase RFC 1123 label"),
    (PODS, "spec.volumes", [{"name": "v"}, {"name": "v"}], "spec.volumes[1].name", 'Duplicate value: "v"'),
    (
        PODS,
        "spec.volumes",
        [{"name": "v", "emptyDir": {}, "secret": {}}],
        "spec.volumes[0].secret",
        "may not specify more than 1 volume type",
    ),
    (
        PODS,
        "spec.tolerations",
        [{"operator": "Equal"}],
        "spec.tolerations[0].operator",
        "operator must be Exists",
    ),
    # services
    (
        SERVICES,
        "spec.type",
        "Cluster",
        "spec.type",
        'Unsupported value: "Cluster": supported values: "ClusterIP"',
    ),
    (SERVICES, "spec.ports", [], "spec.ports", "Required value"),
    (
        SERVICES,
        "spec.ports[0].port",
        0,
        "spec.ports[0].port",
        "Invalid value: 0: must be between 1 and 65535",
    ),
    (SERVICES, "spec.ports[0].protocol", "HTTP", "spec.ports[0].protocol", 'Unsupported value: "HTTP"'),
    (
        SERVICES,
        "spec.ports[0].targetPort",
        "WEB",
        "spec.ports[0].targetPort",
        "must contain only alpha-numeric",
    ),
    (
        SERVICES,
        "spec.ports[0].nodePort",
        30080,
        "spec.ports[0].nodePort",
        "may not be used when `type` is 'Clus",
    ),
    (SERVICES, "spec.ports", [{"port": 80}, {"port": 81}], "spec.ports[0].name", "Required value"),
    (
        SERVICES,
        "spec.ports",
        [{"name": "a", "port": 80}, {"name": "a", "port": 81}],
        "spec.ports[1].name",
        'Duplicate value: "a"',
    ),
    (
        SERVICES,
        "spec.ports",
        [{"name": "a", "port": 80}, {"name": "b", "port": 80}],
        "spec.ports[1]",
        'Duplicate value: {"port":80,"protocol":"TCP"}',
    ),
    (SERVICES, "spec.sessionAffinity", "Cookie", "spec.sessionAffinity", 'Unsupported value: "Cookie"'),
    (SERVICES, "spec.clusterIP", "10.96.0.300", "spec.clusterIPs[0]", "must be a valid IP address"),
    (SERVICES, "spec.externalIPs", ["127.0.0.1"], "spec.externalIPs[0]", "may not be in the loopback range"),
    (
        SERVICES,
        "spec.externalTrafficPolicy",
        "Local",
        "spec.externalTrafficPolicy",
        "may only be set for extern",
    ),
    (
        SERVICES,
        "spec.trafficDistribution",
        "Near",
        "spec.trafficDistribution",
        '"PreferClose", "PreferSameNode", "',
    ),
    (SERVICES, "spec.internalTrafficPolicy", "Here", "spec.internalTrafficPolicy", '"Cluster", "Local"'),
    (SERVICES, "spec.ipFamilies", ["IPv5"], "spec.ipFamilies[0]", 'Unsupported value: "IPv5"'),
    (SERVICES, "spec.type", "ExternalName", "spec.externalName", "Required value"),
    # workloads
    (DEPLOYMENTS, "spec.selector", ..., "spec.selector", "Required value"),
    (DEPLOYMENTS, "spec.selector", {}, "spec.selector", "empty selector is invalid for deployment"),
    (
        DEPLOYMENTS,
        f"{T}.metadata.labels",
        {"app": "other"},
        f"{T}.metadata.labels",
        'Invalid value: map[string]string{"app":"other"}: `selector` does not match template `labels`',
    ),
    (
        DEPLOYMENTS,
        "spec.replicas",
        -1,
        "spec.replicas",
        "Invalid value: -1: must be greater than or equal to 0",
    ),
    (DEPLOYMENTS, T, ..., T, "Required value"),
    (DEPLOYMENTS, f"{T}.spec.containers[0].image", "", f"{T}.spec.containers[0].image", "Required value"),
    (
        DEPLOYMENTS,
        f"{T}.spec.restartPolicy",
        "Never",
        f"{T}.spec.restartPolicy",
        'supported values: "Always"',
    ),
    (DEPLOYMENTS, "spec.strategy.type", "Fast", "spec.strategy.type", '"Recreate", "RollingUpdate"'),
    (
        DEPLOYMENTS,
        "spec.strategy.rollingUpdate",
        {"maxSurge": 0, "maxUnavailable": 0},
        "spec.strategy.rollingUpdate.maxUnavailable",
        "may not be 0 when `maxSurge` is 0",
    ),
    (
        DEPLOYMENTS,
        "spec.strategy.rollingUpdate",
        {"maxSurge": "half"},
        "spec.strategy.rollingUpdate.maxSurge",
        "a valid percent string must be",
    ),
    (
        DEPLOYMENTS,
        "spec.selector.matchExpressions",
        [{"key": "app", "operator": "Like"}],
        "spec.selector.matchExpressions[0].operator",
        "not a valid selector operator",
    ),
    (REPLICASETS, "spec.minReadySeconds", -1, "spec.minReadySeconds", "must be greater than or equal to 0"),
    # the rest
    (ENDPOINTSLICES, "addressType", "IPv5", "addressType", '"FQDN", "IPv4", "IPv6"'),
    (
        ENDPOINTSLICES,
        "endpoints[0].addresses",
        [],
        "endpoints[0].addresses",
        "must contain at least 1 address",
    ),
    (
        ENDPOINTSLICES,
        "endpoints[0].addresses",
        ["::1"],
        "endpoints[0].addresses[0]",
        "must be an IPv4 address",
    ),
    (ENDPOINTSLICES, "endpoints[0].addresses", ["127.0.0.1"], "endpoints[0].addresses[0]", "loopback range"),
    (ENDPOINTSLICES, "endpoints", [{}] * 1001, "endpoints", "Too many: 1001: must have at most 1000 items"),
    (ENDPOINTSLICES, "ports", [{"port": 1}, {"port": 2}], "ports[1].name", 'Duplicate value: ""'),
    (
        ENDPOINTS,
        "subsets[0].addresses",
        [{"ip": "x"}],
        "subsets[0].addresses[0].ip",
        "must be a valid IP address",
    ),
    (
        EVENTS,
        "involvedObject.namespace",
        "other",
        "involvedObject.namespace",
        "does not match event.namespace",
    ),
    (LEASES, "spec.leaseDurationSeconds", 0, "spec.leaseDurationSeconds", "must be greater than 0"),
    (LEASES, "spec.renewTime", "soon", "spec.renewTime", "must be a time in RFC 3339 form"),
    (NODES, "spec.podCIDRs", ["10.244.1.0"], "spec.podCIDRs[0]", "must be a valid CIDR value"),
    (
        NODES,
        "spec.taints",
        [{"key": "a", "effect": "Go"}],
        "spec.taints[0].effect",
        'Unsupported value: "Go"',
    ),
    (NODES, "status.capacity", {"cpu": "x"}, "status.capacity[cpu]", "quantities must match"),
]


@pytest.mark.parametrize(("resource", "path", "value", "field", "text"), CREATE)
def test_create(resource, path, value, field, text):
    found = {cause.field: cause.message for cause in causes_of(resource, put(SAMPLES[resource], path, value))}
    assert field in found, found
    assert text in found[field]


UPDATE = [
    (PODS, f"{C}.image", "netplane/echo:2", None, ""),
    (PODS, "spec.tolerations", [{"operator": "Exists"}], None, ""),
    (PODS, "metadata.labels", {"new": "label"}, None, ""),
    (
        PODS,
        f"{C}.command",
        ["x"],
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`",
    ),
    (PODS, "spec.nodeName", "n2", "spec", "changed: nodeName"),
    (
        PODS,
        "spec.containers[1]",
        {"name": "d", "image": "x"},
        "spec.containers",
        "may not add or remove contain",
    ),
    (PODS, "metadata.name", "other", "metadata.name", "field is immutable"),
    (DEPLOYMENTS, "spec.replicas", 5, None, ""),
    (DEPLOYMENTS, f"{T}.spec.containers[0].image", "x", None, ""),
    (DEPLOYMENTS, "spec.selector.matchLabels", {"app": "b"}, "spec.selector", "field is immutable"),
    (NODES, "spec.podCIDRs", ["10.244.9.0/24"], "spec.podCIDRs", "may not change podCIDR except from"),
    (NODES, "spec.unschedulable", True, None, ""),
    (SERVICES, "spec.clusterIPs", ["10.96.9.9"], "spec.clusterIPs", "first value must match `clusterIP`"),
    (SERVICES, "spec.clusterIP", "10.96.9.9", "spec.clusterIPs[0]", "may not change once set"),
    (SERVICES, "spec.ports[0].port", 81, None, ""),
    (SERVICES, "spec.clusterIP", "", None, ""),
    (ENDPOINTSLICES, "addressType", "IPv6", "addressType", "field is immutable"),
]


@pytest.mark.parametrize(("resource", "path", "value", "field", "text"), UPDATE)
def test_update(resource, path, value, field, text):
    old = copy.deepcopy(SAMPLES[resource])
    KINDS[resource].default(old)
    if resource == SERVICES:
        old["spec"] |= {"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"]}
    if resource == NODES:
        old["spec"] |= {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}
    found = {cause.field: cause.message for cause in causes_of(resource, put(old, path, value), old)}
    if field is None:
        assert found == {}
    else:
        assert field in found, found
        assert text in found[field]


def test_every_wrong_field_is_named_at_once():
    wrong = put(put(pod(), f"{C}.image", ""), "spec.restartPolicy", "x")
    assert {cause.field for cause in causes_of(PODS, wrong)} == {f"{C}.image", "spec.restartPolicy"}


@pytest.mark.parametrize(
    ("resource", "change", "paths"),
    [
        (
            PODS,
            {"spec.containers[0].imag": "x", "spec.restartpolicy": "x"},
            ["spec.containers[0].imag", "spec.restartpolicy"],
        ),
        (
            DEPLOYMENTS,
            {"spec.template.spec.containers[0].ports": [{"port": 1}]},
            ["spec.template.spec.containers[0].ports[0].port"],
        ),
        (SERVICES, {"spec.port": 3, "metadata.label": {}}, ["metadata.label", "spec.port"]),
        (PODS, {"metadata.labels": {"anything": "goes"}, "spec.affinity": {"any": 1}}, ["spec.affinity.any"]),
    ],
)
def test_unknown_fields(resource, change, paths):
    obj = SAMPLES[resource]
    for path, value in change.items():
        obj = put(obj, path, value)
    assert sorted(unknown(shape_of(resource), obj)) == paths
