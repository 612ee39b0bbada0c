"""Results in the shape of each version, against files written by hand from each version's text."""

import json
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cni.errors import CniError
from cni.results import VERSIONS, Address, Interface, Result, Route, parse, render

GOLDEN = Path(__file__).parents[2] / "golden" / "cni"
WHOLE = Result(
    interfaces=(
        Interface("np0123456789ab", "02:00:00:00:00:01", mtu=1450),
        Interface("eth0", "06:00:00:00:00:02", "/proc/7/ns/net", 1450, "/run/x.sock", "0000:00:1f.6"),
    ),
    addresses=(
        Address(ip_address("10.244.1.2"), 32, ip_address("169.254.1.1"), 1),
        Address(ip_address("fd00:10:244:1::2"), 128, ip_address("fe80::1"), 1),
    ),
    routes=(
        Route(ip_network("0.0.0.0/0"), ip_address("169.254.1.1")),
        Route(
            ip_network("::/0"), ip_address("fe80::1"), mtu=1400, advmss=1340, priority=5, table=100, scope=0
        ),
    ),
    dns={"nameservers": ["10.96.0.10"], "search": ["cluster.local"]},
)
SAME_SHAPE = {"0.2.0": "0.1.0", "0.3.1": "0.3.0", "0.4.0": "0.3.0"}


@pytest.mark.parametrize("version", VERSIONS)
def test_golden(version):
    expected = json.loads((GOLDEN / f"result-{SAME_SHAPE.get(version, version)}.json").read_text())
    assert render(WHOLE, version) == {**expected, "cniVersion": version}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_read_back_says_the_same(version):
    document = render(WHOLE, version)
    assert render(parse(document), version) == document


def test_the_newest_version_loses_nothing():
    assert parse(render(WHOLE, "1.1.0")) == WHOLE


def test_an_older_prev_result_is_converted():
    converted = render(parse(render(WHOLE, "0.3.1")), "1.0.0")
    assert all("version" not in entry for entry in converted["ips"])
    assert converted["interfaces"] == render(WHOLE, "1.0.0")["interfaces"]


def test_a_chained_result_keeps_what_was_there_and_shifts_indices():
    first = Result(
        (Interface("br0", "02:00:00:00:00:09"),),
        (Address(ip_address("192.0.2.5"), 24, None, 0),),
        (Route(ip_network("192.0.2.0/24")),),
        {"nameservers": ["192.0.2.1"], "domain": "example"},
    )
    both = first.followed_by(WHOLE)
    assert both.interfaces == first.interfaces + WHOLE.interfaces
    assert [a.interface for a in both.addresses] == [0, 2, 2]
    assert both.routes[0] == first.routes[0]
    assert both.dns == {"nameservers": ["10.96.0.10"], "domain": "example", "search": ["cluster.local"]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ips": {}}, "prevResult.ips"),
        ({"ips": [{"address": "10.0.0.300/24"}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": 7}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": "10.0.0.1/24", "interface": "0"}]}, "prevResult.ips[0].interface"),
        ({"interfaces": [{"mac": "x"}]}, "prevResult.interfaces[0].name"),
        ({"interfaces": ["eth0"]}, "prevResult.interfaces[0]"),
        ({"routes": [{"dst": "x"}]}, "prevResult.routes[0].dst"),
        ({"routes": [{"dst": "0.0.0.0/0", "gw": "x"}]}, "prevResult.routes[0].gw"),
        ({"dns": [1]}, "prevResult.dns"),
    ],
)
def test_a_malformed_prev_result_is_6_and_names_the_place(change, named):
    document = {"cniVersion": "1.0.0", **change}
    with pytest.raises(CniError) as caught:
        parse(document)
    assert caught.value.code == 6
    assert named in str(caught.value)


def test_a_prev_result_of_an_unknown_version_is_1():
    with pytest.raises(CniError) as caught:
        parse({"cniVersion": "7.0.0"})
    assert caught.value.code == 1
