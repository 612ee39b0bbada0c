"""Where a pod wants to be and as whom: what is refused with kube-apiserver's words, and what is warned of."""

import pytest

from controlplane.api.kinds.registry import KINDS
from netplane.kube.resources import DAEMONSETS, DEPLOYMENTS, JOBS, NAMESPACES, PODS, REPLICASETS
from tests.unit.controlplane_kinds.kind_samples import namespace, pod
from tests.unit.controlplane_kinds.test_rules import causes_of, put

NEEDED = "requiredDuringSchedulingIgnoredDuringExecution"
WISHED = "preferredDuringSchedulingIgnoredDuringExecution"
NODE_TERMS = f"spec.affinity.nodeAffinity.{NEEDED}.nodeSelectorTerms"
NODE_WISH = f"spec.affinity.nodeAffinity.{WISHED}"
POD_TERMS = f"spec.affinity.podAntiAffinity.{NEEDED}"
POD_WISH = f"spec.affinity.podAffinity.{WISHED}"
SPREAD = "spec.topologySpreadConstraints"
CONSTRAINT = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
BOTH = {"allowPrivilegeEscalation": False, "privileged": True}
ADMIN = {"allowPrivilegeEscalation": False, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}
PROBE = {"httpGet": {"port": 80}}


def expression(key="k", operator="In", values=("v",)):
    return [{"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}]


def by_field(key="metadata.name", operator="In", values=("n1",)):
    return [{"matchFields": [{"key": key, "operator": operator, "values": list(values)}]}]


def init(**fields):
    return [{"name": "i", "image": "netplane/echo", **fields}]


WRONG = [
    (NODE_TERMS, [], NODE_TERMS, "must have at least one node selector term"),
    (NODE_TERMS, expression(operator="Is"), f"{NODE_TERMS}[0].matchExpressions[0].operator", "not a valid"),
    (NODE_TERMS, expression(values=()), f"{NODE_TERMS}[0].matchExpressions[0].values", "must be specified"),
    (
        NODE_TERMS,
        expression(operator="Exists"),
        f"{NODE_TERMS}[0].matchExpressions[0].values",
        "may not be specified when `operator` is 'Exists'",
    ),
    (
        NODE_TERMS,
        expression(operator="Gt", values=("1", "2")),
        f"{NODE_TERMS}[0].matchExpressions[0].values",
        "must be specified single value when `operator` is 'Lt' or 'Gt'",
    ),
    (NODE_TERMS, expression(key="a b"), f"{NODE_TERMS}[0].matchExpressions[0].key", "name part must"),
    (NODE_TERMS, by_field(key="spec.x"), f"{NODE_TERMS}[0].matchFields[0].key", "not a valid field selector"),
    (NODE_TERMS, by_field(values=()), f"{NODE_TERMS}[0].matchFields[0].values", "must be only one value"),
    (NODE_TERMS, by_field(operator="Gt"), f"{NODE_TERMS}[0].matchFields[0].operator", "not a valid selector"),
    (NODE_TERMS, by_field(values=("N_1",)), f"{NODE_TERMS}[0].matchFields[0].values[0]", "RFC 1123"),
    (NODE_WISH, [{"weight": 0, "preference": {}}], f"{NODE_WISH}[0].weight", "must be in the range 1-100"),
    (POD_TERMS, [{}], f"{POD_TERMS}[0].topologyKey", "Required value: can not be empty"),
    (
        POD_TERMS,
        [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b c"}}}],
        f"{POD_TERMS}[0].labelSelector.matchLabels",
        "a valid label must be",
    ),
    (
        POD_TERMS,
        [{"topologyKey": "zone", "namespaces": ["A"]}],
        f"{POD_TERMS}[0].namespace",
        "RFC 1123 label",
    ),
    (
        POD_WISH,
        [{"weight": 101, "podAffinityTerm": {"topologyKey": "a b"}}],
        f"{POD_WISH}[0].weight",
        "must be in the range 1-100",
    ),
    (
        POD_WISH,
        [{"weight": 1, "podAffinityTerm": {"topologyKey": "a b"}}],
        f"{POD_WISH}[0].podAffinityTerm.topologyKey",
        "name part must",
    ),
    (SPREAD, [{**CONSTRAINT, "maxSkew": 0}], f"{SPREAD}[0].maxSkew", "must be greater than zero"),
    (SPREAD, [{**CONSTRAINT, "topologyKey": ""}], f"{SPREAD}[0].topologyKey", "can not be empty"),
    (SPREAD, [{**CONSTRAINT, "whenUnsatisfiable": "Try"}], f"{SPREAD}[0].whenUnsatisfiable", "Unsupported"),
    (SPREAD, [{**CONSTRAINT, "minDomains": 0}], f"{SPREAD}[0].minDomains", "must be greater than zero"),
    (
        SPREAD,
        [{**CONSTRAINT, "minDomains": 2, "whenUnsatisfiable": "ScheduleAnyway"}],
        f"{SPREAD}[0].minDomains",
        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
    ),
    (
        SPREAD,
        [CONSTRAINT, CONSTRAINT],
        f"{SPREAD}[1].{{topologyKey, whenUnsatisfiable}}",
        'Duplicate value: "{zone, DoNotSchedule}"',
    ),
    ("spec.readinessGates", [{"conditionType": "a b"}], "spec.readinessGates[0].conditionType", "name part"),
    ("spec.securityContext.runAsUser", -1, "spec.securityContext.runAsUser", "between 0 and 2147483647"),
    ("spec.securityContext.fsGroup", 2**31, "spec.securityContext.fsGroup", "between 0 and 2147483647"),
    (
        "spec.securityContext.supplementalGroups",
        [1, -1],
        "spec.securityContext.supplementalGroups[1]",
        "between 0 and 2147483647",
    ),
    (
        "spec.containers[0].securityContext",
        {"runAsGroup": -1},
        "spec.containers[0].securityContext.runAsGroup",
        "between 0 and 2147483647",
    ),
    (
        "spec.containers[0].securityContext",
        BOTH,
        "spec.containers[0].securityContext",
        "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
    ),
    (
        "spec.containers[0].securityContext",
        ADMIN,
        "spec.containers[0].securityContext",
        "to false and `capabilities.Add` CAP_SYS_ADMIN",
    ),
    (
        "spec.containers[0].readinessProbe",
        {**PROBE, "terminationGracePeriodSeconds": 3},
        "spec.containers[0].readinessProbe.terminationGracePeriodSeconds",
        "must not be set for readinessProbes",
    ),
    (
        "spec.initContainers",
        init(readinessProbe=PROBE),
        "spec.initContainers[0].readinessProbe",
        "may not be set for init containers without restartPolicy=Always",
    ),
    (
        "spec.initContainers",
        init(lifecycle={"preStop": {"exec": {"command": ["x"]}}}),
        "spec.initContainers[0].lifecycle",
        "may not be set for init containers without restartPolicy=Always",
    ),
    (
        "spec.ephemeralContainers",
        init(),
        "spec.ephemeralContainers",
        "Forbidden: cannot be set on create",
    ),
    (
        "spec.dnsConfig",
        {"nameservers": ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]},
        "spec.dnsConfig.nameservers",
        "must not have more than 3 nameservers",
    ),
    ("spec.dnsConfig", {"options": [{"value": "1"}]}, "spec.dnsConfig.options[0]", "must not be empty"),
    (
        "spec.hostAliases",
        [{"ip": "10.0.0.1", "hostnames": ["A_b"]}],
        "spec.hostAliases[0].hostnames",
        "RFC 1123 subdomain",
    ),
    ("metadata.finalizers", ["hold"], "metadata.finalizers[0]", "neither a standard finalizer name nor"),
    (
        "metadata.finalizers",
        ["orphan", "foregroundDeletion"],
        "metadata.finalizers",
        "finalizer orphan and foregroundDeletion cannot be both set",
    ),
]


@pytest.mark.parametrize(("path", "value", "field", "text"), WRONG)
def test_what_is_refused(path, value, field, text):
    found = {cause.field: cause.message for cause in causes_of(PODS, put(pod(), path, value))}
    assert field in found, found
    assert text in found[field]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (NODE_TERMS, expression(operator="Gt", values=("3",))),
        (NODE_TERMS, by_field(operator="NotIn")),
        (NODE_WISH, [{"weight": 100, "preference": expression()[0]}]),
        (POD_TERMS, [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}]),
        (SPREAD, [CONSTRAINT, {**CONSTRAINT, "whenUnsatisfiable": "ScheduleAnyway"}]),
        ("spec.initContainers", init(restartPolicy="Always", readinessProbe=PROBE)),
        ("spec.containers[0].securityContext", {"privileged": True, "runAsUser": 0}),
        ("metadata.finalizers", ["example.com/hold", "foregroundDeletion"]),
    ],
)
def test_what_is_fine(path, value):
    assert causes_of(PODS, put(pod(), path, value)) == []


def lasting(**fields):
    return {"key": "k", "operator": "Exists", "effect": "NoExecute", **fields}


@pytest.mark.parametrize(
    ("new", "fine"),
    [
        ([lasting(tolerationSeconds=9)], True),
        ([lasting(), {"key": "other", "operator": "Exists"}], True),
        ([lasting(effect="NoSchedule")], False),
        ([], False),
    ],
)
def test_tolerations_may_be_added_and_last_longer(new, fine):
    old = put(pod(), "spec.tolerations", [lasting(tolerationSeconds=5)])
    assert causes_of(PODS, old) == []
    fields = [cause.field for cause in causes_of(PODS, put(old, "spec.tolerations", new), old)]
    assert fields == ([] if fine else ["spec.tolerations"])


def test_who_is_leaving_gets_no_new_finalizer():
    old = put(pod(), "metadata.finalizers", ["a.io/x", "a.io/y"])
    assert causes_of(PODS, old) == []
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert causes_of(PODS, put(old, "metadata.finalizers", ["a.io/y"]), old) == []
    (cause,) = causes_of(PODS, put(old, "metadata.finalizers", ["a.io/x", "b.io/z"]), old)
    assert cause.field == "metadata.finalizers"
    assert 'found new finalizers []string{"b.io/z"}' in cause.message


def test_a_namespaces_own_finalizers_are_named_likewise():
    (cause,) = causes_of(NAMESPACES, put(namespace(), "spec.finalizers", ["mine"]))
    assert (cause.field, "fully qualified" in cause.message) == ("spec.finalizers[0]", True)


@pytest.mark.parametrize("resource", [PODS, DEPLOYMENTS, REPLICASETS, DAEMONSETS, JOBS])
def test_what_the_scheduler_does_not_act_on_is_warned_of(resource):
    wishes = {
        "affinity": {"podAntiAffinity": {NEEDED: [{"topologyKey": "zone"}]}, "nodeAffinity": {}},
        "topologySpreadConstraints": [CONSTRAINT],
    }
    spec = wishes if resource == PODS else {"template": {"spec": wishes}}
    at = "spec" if resource == PODS else "spec.template.spec"
    text = "stored, but netplane's scheduler does not act on it"
    assert KINDS[resource].warnings({"spec": spec}) == [
        f"{at}.affinity.podAntiAffinity: {text}",
        f"{at}.topologySpreadConstraints: {text}",
    ]
    assert KINDS[resource].warnings({}) == []
