"""The network configuration: what it may say, and what each mistake is called."""

from ipaddress import ip_address, ip_network

import pytest

from cni import netconf
from cni.bandwidth import Bandwidth, Bucket
from cni.errors import CniError


def config(**keys):
    return {"ipam": {"ranges": [["10.244.1.0/24"]]}, **keys}


def ranges(*entries):
    return {"ipam": {"ranges": list(entries)}}


def mapped(host_ip):
    return config(runtimeConfig={"portMappings": [{"hostPort": 1, "containerPort": 2, "hostIP": host_ip}]})


def test_what_the_node_agent_writes():
    parsed = netconf.parse(config(masquerade={"exclude": ["10.244.0.0/16", "10.96.0.0/12"]}, mtu=1450))
    assert parsed.exclude == (ip_network("10.244.0.0/16"), ip_network("10.96.0.0/12"))
    assert parsed.mtu == 1450
    only = parsed.pools[0].ranges[0]
    assert (str(only.first), str(only.last), str(only.gateway)) == (
        "10.244.1.1",
        "10.244.1.254",
        "10.244.1.1",
    )


def test_nothing_said_is_no_masquerade_and_the_underlays_mtu():
    parsed = netconf.parse(config())
    assert (parsed.exclude, parsed.mtu) == (None, None)


def test_one_list_one_address_and_host_locals_objects():
    parsed = netconf.parse(
        ranges(
            ["10.244.1.0/24", {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.20"}],
            ["fd00:10:244:1::/64"],
        )
    )
    assert [len(pool.ranges) for pool in parsed.pools] == [2, 1]
    assert parsed.pools[0].ranges[1].first == ip_address("10.1.0.10")


def test_keys_of_other_plugins_pass():
    netconf.parse(
        config(bridge="cni0", capabilities={"x": True}, runtimeConfig={"aliases": ["a"], "portMappings": []})
    )


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({}, ["ipam.ranges"]),
        ({"ipam": []}, ["ipam", "[]", "object"]),
        ({"ipam": {"ranges": []}}, ["ipam.ranges"]),
        ({"ipam": {"ranges": "10.0.0.0/24"}}, ["ipam.ranges", "list"]),
        ({"ipam": {"ranges": [["10.0.0.0/24"]], "rnages": 1}}, ["ipam.rnages", "not a known key", "ranges"]),
        (ranges("10.0.0.0/24"), ["ipam.ranges[0]", "list"]),
        (ranges([]), ["ipam.ranges[0]"]),
        (ranges(["10.0.0.0/33"]), ["ipam.ranges[0][0]", "10.0.0.0/33"]),
        (ranges(["10.0.0.1/24"]), ["ipam.ranges[0][0]", "10.0.0.1/24", "host bits"]),
        (ranges([17]), ["ipam.ranges[0][0]", "17"]),
        (ranges(["10.0.0.0/24", "fd00::/64"]), ["ipam.ranges[0]", "mixes"]),
        (ranges(["10.0.0.0/24"], ["10.0.0.0/16"]), ["ipam.ranges", "overlaps 10.0.0.0/24"]),
        (
            ranges([{"subnet": "10.0.0.0/24", "rangeStart": "10.1.0.1"}]),
            ["ipam.ranges[0][0]", "rangeStart 10.1.0.1"],
        ),
        (ranges([{"subnet": "10.0.0.0/24", "rangeEnd": "x"}]), ["ipam.ranges[0][0].rangeEnd", "x"]),
        (
            ranges([{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}]),
            ["10.0.0.9 is after rangeEnd 10.0.0.8"],
        ),
        (config(masquerade=True), ["masquerade", "true", "object"]),
        (config(masquerade={"exclude": ["x"]}), ["masquerade.exclude[0]", '"x"']),
        (config(masquerade={"except": []}), ["masquerade.except", "not a known key"]),
        (config(mtu="1500"), ["mtu", '"1500"']),
        (config(mtu=100), ["mtu", "100", "576"]),
        (config(mtu=True), ["mtu", "true"]),
        ({**ranges(["fd00::/64"]), "mtu": 1000}, ["mtu", "1000", "1280"]),
        (config(dns=[]), ["dns"]),
        (config(runtimeConfig=3), ["runtimeConfig"]),
        (mapped("::"), ["runtimeConfig.portMappings[0]", "hostIP's family"]),
        ({**mapped("::1"), **ranges(["fd00::/64"])}, ["runtimeConfig.portMappings[0]", "::1"]),
    ],
)
def test_what_is_ours_and_wrong_is_7_and_named(document, named):
    with pytest.raises(CniError) as caught:
        netconf.parse(document)
    assert caught.value.code == 7
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"ipam": {"type": "host-local", "ranges": [["10.0.0.0/24"]]}}, ["ipam.type", "host-local"]),
        (config(ipMasq=True), ["ipMasq", "true"]),
        (config(runtimeConfig={"deviceID": "0000:01"}), ["runtimeConfig.deviceID", "0000:01"]),
    ],
)
def test_what_is_known_and_not_offered_is_2_with_key_and_value(document, named):
    with pytest.raises(CniError) as caught:
        netconf.parse(document)
    assert caught.value.code == 2
    for part in named:
        assert part in str(caught.value)


def test_capabilities_as_containerd_spells_them():
    """Its CNI library leaves Go's own field names, which Go's reading takes whatever their case."""
    asked = {
        "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
        "bandwidth": {"IngressRate": 8000, "IngressBurst": 4294967295, "EgressRate": 0, "EgressBurst": 0},
        "ipRanges": [[{"Subnet": "10.7.0.0/24", "RangeStart": "10.7.0.9", "RangeEnd": "", "Gateway": ""}]],
        "dns": {"Servers": ["10.96.0.10"], "Searches": ["cluster.local"], "Options": ["ndots:5"]},
    }
    parsed = netconf.parse(config(runtimeConfig=asked))
    assert [str(mapping) for mapping in parsed.ports] == ["*:8080/tcp"]
    assert parsed.bandwidth == Bandwidth(ingress=Bucket(1000, 200_000))
    assert str(parsed.pools[0].ranges[0].first) == "10.7.0.9"
    assert parsed.dns["nameservers"] == ["10.96.0.10"]
    assert parsed.dns["options"] == ["ndots:5"]
