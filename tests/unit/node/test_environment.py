"""Environment, command expansion, name files, refusals, limits."""

import pytest

from netplane.linux.cgroups import Limits
from netplane.node import names
from netplane.node.container_start import limits_of
from netplane.node.environment import command, environment, expand
from netplane.node.runtimes.refusals import refusals

POD = {
    "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "web"}},
    "spec": {"nodeName": "n1"},
}
FACTS = {"hostname": "p", "status.podIP": "10.244.1.2"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$$(A)", "$(A)"),
        ("$(NOPE)", "$(NOPE)"),
        ("$A $", "$A $"),
        ("$$$(A)", "$1"),
    ],
)
def test_expansion(text, expected):
    assert expand(text, {"A": "1", "B": "2"}) == expected


def test_variables_in_order_with_field_references():
    def ref(path):
        return {"fieldRef": {"fieldPath": path}}

    container = {
        "env": [
            {"name": "IP", "valueFrom": ref("status.podIP")},
            {"name": "APP", "valueFrom": ref("metadata.labels['app']")},
            {"name": "NODE", "valueFrom": ref("spec.nodeName")},
            {"name": "URL", "value": "http://$(IP)/$(LATER)"},
            {"name": "LATER", "value": "x"},
        ]
    }
    found = environment(POD, container, FACTS, {"PYTHONPATH": "/x"})
    assert found["URL"] == "http://10.244.1.2/$(LATER)"
    assert (found["APP"], found["NODE"], found["PYTHONPATH"]) == ("web", "n1", "/x")
    assert (found["NETPLANE_POD"], found["NETPLANE_NAMESPACE"], found["NETPLANE_NODE"]) == ("p", "d", "n1")


def test_an_unknown_field_is_named():
    container = {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.color"}}}]}
    with pytest.raises(ValueError, match=r"env A: fieldRef.fieldPath 'status.color' is not supported"):
        environment(POD, container, FACTS, {})


def test_command_and_args():
    assert command({"args": ["$(A)"]}, ["python", "-m", "echo"], {"A": "1"}) == ["python", "-m", "echo", "1"]
    assert command({"command": ["sh"], "args": ["-c"]}, ["python"], {}) == ["sh", "-c"]


DNS = names.Dns(["10.96.0.10"], "cluster.local")
NODE_TEXT = "nameserver 192.0.2.53\nsearch lan.example\noptions timeout:2\n"


def resolv(**spec):
    return names.resolv_conf({**POD, "spec": spec}, DNS, NODE_TEXT).splitlines()


def test_cluster_first():
    assert resolv() == [
        "nameserver 10.96.0.10",
        "search d.svc.cluster.local svc.cluster.local cluster.local lan.example",
        "options ndots:5",
    ]


def test_other_policies():
    assert resolv(dnsPolicy="Default") == ["nameserver 192.0.2.53", "search lan.example", "options timeout:2"]
    assert resolv(hostNetwork=True)[0] == "nameserver 192.0.2.53"
    assert resolv(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")[0] == "nameserver 10.96.0.10"
    config = {"nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}]}
    assert resolv(dnsPolicy="None", dnsConfig=config) == ["nameserver 1.1.1.1", "search a", "options ndots:2"]
    assert resolv(dnsConfig=config)[-1] == "options ndots:2"


def test_hosts():
    pod = {**POD, "spec": {"subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}
    text = names.hosts(pod, ["10.244.1.2"], "cluster.local")
    assert "10.244.1.2 p.s.d.svc.cluster.local p\n" in text
    assert "1.2.3.4 a b\n" in text
    assert "127.0.0.1 localhost\n" in text


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, r"spec.volumes\[0\] \(v\).hostPath"),
        ({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}, "emptyDir.medium"),
        (
            {
                "volumes": [
                    {"name": "kube-api-access-x", "projected": {"sources": [{"serviceAccountToken": {}}]}}
                ]
            },
            "serviceAccountToken.*automountServiceAccountToken",
        ),
        ({"hostPID": True}, "spec.hostPID"),
        ({"initContainers": [{"name": "i"}]}, "spec.initContainers"),
        (
            {
                "containers": [
                    {"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                    {"name": "b", "volumeMounts": [{"name": "w", "mountPath": "/v"}]},
                ]
            },
            r"spec.containers\[1\].volumeMounts\[0\].mountPath",
        ),
        (
            {"containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {}}}]}]},
            "resourceFieldRef",
        ),
        ({"containers": [{"name": "c", "livenessProbe": {"grpc": {"port": 1}}}]}, "livenessProbe.grpc"),
    ],
)
def test_what_is_not_served_is_refused_by_name(spec, field):
    import re

    found = refusals({"spec": spec})
    assert found
    assert any(re.search(field, text) for text in found)


def test_a_plain_pod_is_not_refused():
    assert refusals({"spec": {"containers": [{"name": "c", "image": "netplane/echo"}]}}) == []


def test_limits():
    container = {"resources": {"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"cpu": "250m"}}}
    assert limits_of(container, 100) == Limits(memory=64 * 2**20, cpu=500, cpu_share=250, pids=100)
    assert limits_of({}, None) == Limits()
    with pytest.raises(ValueError, match="sixty"):
        limits_of({"resources": {"limits": {"memory": "sixty"}}}, None)
