"""Ports of the node and limits of bandwidth: from a pod's own words to CNI's."""

from ipaddress import ip_network

import pytest

from netplane.errors import ConfigError
from netplane.node.capabilities import asked, require
from netplane.node.cni_config import parse
from netplane.node.network import conflist


def pod(*ports, **annotations):
    names = {f"kubernetes.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {"metadata": {"annotations": names}, "spec": {"containers": [{"ports": list(ports)}]}}


def test_a_pod_that_asks_for_nothing():
    assert asked(pod({"containerPort": 80})) == {}
    assert asked({"metadata": {}, "spec": {"containers": [{}]}}) == {}


def test_host_ports_of_every_container():
    wanted = pod({"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"})
    wanted["spec"]["containers"].append({"ports": [{"containerPort": 80, "hostPort": 8080}]})
    assert asked(wanted) == {
        "portMappings": [
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ]
    }


def test_bandwidth_is_bits_a_second_and_a_burst_of_a_tenth_of_that():
    assert asked(pod(ingress_bandwidth="10M", egress_bandwidth="1k"))["bandwidth"] == {
        "ingressRate": 10_000_000,
        "ingressBurst": 1_000_000,
        "egressRate": 1000,
        "egressBurst": 524_288,
    }


@pytest.mark.parametrize("text", ["", "fast", "999", "2P", "-1M"])
def test_what_is_no_bandwidth_is_named(text):
    with pytest.raises(ConfigError, match=r"kubernetes\.io/egress-bandwidth"):
        asked(pod(egress_bandwidth=text))


def test_what_no_plugin_of_the_network_can_do_is_refused():
    other = parse({"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "bridge"}]}, "a file")
    wishes = asked(pod({"containerPort": 80, "hostPort": 8080}, ingress_bandwidth="1M"))
    with pytest.raises(ConfigError, match="cannot map hostPort: no plugin of network other"):
        require(other, wishes)
    require(other, {})
    require(parse(conflist([ip_network("10.244.1.0/24")], []), "ours"), wishes)
