"""What the server fills in, field by field, and that it fills in nothing the second time."""

import copy

import pytest

from controlplane.api.kinds.events_v1 import EVENTS_V1
from controlplane.api.kinds.listed import LISTED
from controlplane.api.kinds.pod_defaults import qos_class
from controlplane.api.kinds.registry import KINDS
from controlplane.api.kinds.reviews import REVIEWS
from netplane.kube.resources import (
    ALL,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
)

CONTAINER = {"name": "c", "image": "netplane/echo"}
CONTAINER_DEFAULTS = {
    **CONTAINER,
    "imagePullPolicy": "Always",
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
POD_DEFAULTS = {
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
}


def defaulted(resource, **fields):
    sent = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "x"}, **fields}
    obj = copy.deepcopy(sent)
    KINDS[resource].default(obj)
    again = copy.deepcopy(obj)
    KINDS[resource].default(again)
    assert again == obj, "defaults are filled once"
    return obj


def pod(**spec):
    return defaulted(PODS, spec={"containers": [CONTAINER], **spec})["spec"]


def container(**fields):
    return pod(containers=[{**CONTAINER, **fields}])["containers"][0]


def test_registry_serves_every_resource_netplane_speaks():
    assert set(KINDS) == {*ALL, EVENTS_V1, *LISTED, *(kind.resource for kind in REVIEWS)}
    assert {resource for resource, kind in KINDS.items() if kind.stored} == {*ALL, EVENTS_V1}
    assert all(kind.resource == resource for resource, kind in KINDS.items())


def test_pod():
    assert pod() == {**POD_DEFAULTS, "enableServiceLinks": True, "containers": [CONTAINER_DEFAULTS]}


def test_a_pod_s_own_words_stay():
    own = {
        "dnsPolicy": "None",
        "restartPolicy": "Never",
        "schedulerName": "mine",
        "securityContext": {"runAsUser": 7},
        "terminationGracePeriodSeconds": 0,
        "enableServiceLinks": False,
    }
    spec = pod(**own)
    assert {field: spec[field] for field in own} == own


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("echo", "Always"),
        ("echo:latest", "Always"),
        ("echo:1.2", "IfNotPresent"),
        ("host:5000/echo", "Always"),
        ("host:5000/echo:1", "IfNotPresent"),
        ("echo@sha256:abc", "IfNotPresent"),
    ],
)
def test_pull_policy(image, policy):
    assert container(image=image)["imagePullPolicy"] == policy


def test_ports_probes_and_hooks():
    found = container(
        ports=[{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}],
        readinessProbe={"httpGet": {"port": 80}, "periodSeconds": 1},
        livenessProbe={"grpc": {"port": 5}},
        lifecycle={"preStop": {"httpGet": {"port": "web", "scheme": "HTTPS"}}},
    )
    assert [port["protocol"] for port in found["ports"]] == ["UDP", "TCP"]
    assert found["readinessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "periodSeconds": 1,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert found["livenessProbe"]["grpc"] == {"port": 5, "service": ""}
    assert found["lifecycle"]["preStop"]["httpGet"] == {"port": "web", "scheme": "HTTPS", "path": "/"}


def test_requests_come_from_limits_in_pods_but_not_in_templates():
    limits = {"cpu": "1", "memory": "1Gi"}
    found = container(resources={"limits": limits, "requests": {"cpu": "100m"}})
    assert found["resources"]["requests"] == {"cpu": "100m", "memory": "1Gi"}
    template = {"spec": {"containers": [{**CONTAINER, "resources": {"limits": limits}}]}}
    spec = defaulted(REPLICASETS, spec={"template": template})["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"] == {"limits": limits}
    assert "enableServiceLinks" not in spec


def test_host_network_and_accounts_and_volumes():
    spec = pod(
        hostNetwork=True,
        containers=[{**CONTAINER, "ports": [{"containerPort": 80}]}],
        serviceAccount="me",
        volumes=[
            {"name": "empty"},
            {"name": "host", "hostPath": {"path": "/x"}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "all", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        ],
    )
    assert spec["containers"][0]["ports"][0]["hostPort"] == 80
    assert spec["serviceAccountName"] == spec["serviceAccount"] == "me"
    empty, host, secret, projected = spec["volumes"]
    assert empty["emptyDir"] == {}
    assert host["hostPath"]["type"] == ""
    assert secret["secret"]["defaultMode"] == 420
    assert projected["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600


def test_nulls_are_absent_fields():
    obj = defaulted(
        PODS,
        metadata={"name": "x", "creationTimestamp": None, "labels": {"a": None}},
        spec={"containers": [{**CONTAINER, "ports": None}], "restartPolicy": None},
    )
    assert obj["metadata"] == {"name": "x", "labels": {"a": ""}}
    assert obj["spec"]["restartPolicy"] == "Always"
    assert "ports" not in obj["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ([{}], "BestEffort"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
        (
            [{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}],
            "Guaranteed",
        ),
        (
            [{"limits": {"cpu": "1000m", "memory": "1Gi"}, "requests": {"cpu": 1, "memory": "1024Mi"}}],
            "Guaranteed",
        ),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Mi"}}], "Burstable"),
        ([{"limits": {"cpu": "1", "memory": "1Gi"}}, {}], "Burstable"),
        ([{"requests": {"memory": "1Gi"}}], "Burstable"),
        ([{"limits": {"cpu": "1"}}], "Burstable"),
    ],
)
def test_quality_of_service(resources, qos):
    assert qos_class({"containers": [{"resources": entry} for entry in resources]}) == qos


def service(**spec):
    return defaulted(SERVICES, spec=spec)["spec"]


def test_service():
    assert service(ports=[{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]) == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [
            {"port": 80, "protocol": "TCP", "targetPort": 80},
            {"port": 53, "protocol": "UDP", "targetPort": "dns"},
        ],
    }


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ({"type": "NodePort"}, {"externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"}),
        (
            {"type": "LoadBalancer"},
            {"externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": True},
        ),
        ({"externalIPs": ["192.0.2.1"]}, {"externalTrafficPolicy": "Cluster"}),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, {"externalTrafficPolicy": "Local"}),
        ({"type": "ExternalName"}, {"internalTrafficPolicy": None, "externalTrafficPolicy": None}),
        ({}, {"externalTrafficPolicy": None, "allocateLoadBalancerNodePorts": None}),
        (
            {"sessionAffinity": "ClientIP"},
            {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}},
        ),
        ({"sessionAffinity": "None", "sessionAffinityConfig": {}}, {"sessionAffinityConfig": None}),
        (
            {"ports": [{"port": 80, "targetPort": 0}]},
            {"ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]},
        ),
    ],
)
def test_service_by_type(spec, fields):
    found = service(**spec)
    assert {field: found.get(field) for field in fields} == fields


def test_deployment():
    spec = defaulted(DEPLOYMENTS, spec={"template": {"spec": {"containers": [CONTAINER]}}})["spec"]
    assert spec == {
        "replicas": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        "template": {"spec": {**POD_DEFAULTS, "containers": [CONTAINER_DEFAULTS]}},
    }


def test_deployment_keeps_zero_and_recreate():
    own = {"replicas": 0, "strategy": {"type": "Recreate"}, "revisionHistoryLimit": 0}
    spec = defaulted(DEPLOYMENTS, spec=own)["spec"]
    assert {field: spec[field] for field in own} == own


def test_small_kinds():
    assert defaulted(REPLICASETS)["spec"] == {"replicas": 1}
    namespace = defaulted(NAMESPACES)
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    ports = defaulted(ENDPOINTSLICES, addressType="IPv4", ports=[{"port": 1}])["ports"]
    assert ports == [{"name": "", "port": 1, "protocol": "TCP"}]
    subsets = defaulted(ENDPOINTS, subsets=[{"ports": [{"port": 1}]}])["subsets"]
    assert subsets == [{"ports": [{"port": 1, "protocol": "TCP"}]}]
    node = defaulted(NODES, spec={"podCIDR": "10.244.1.0/24"}, status={"capacity": {"cpu": "2"}})
    assert node["spec"]["podCIDRs"] == ["10.244.1.0/24"]
    assert node["status"]["allocatable"] == {"cpu": "2"}
