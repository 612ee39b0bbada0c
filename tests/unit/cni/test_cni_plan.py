"""Plans as values: what an ADD does, that each cut-short ADD is undone, and what CHECK compares."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from cni import firewall, plan
from cni.check import Link, Observed, differences
from cni.lease import Lease, State, Terms
from cni.plan import (
    CreateVeth,
    DefaultRoute,
    DeleteLink,
    Firewall,
    HostRoute,
    LinkUp,
    Neighbour,
    NoMulticastRoute,
    PodAddress,
    Transmit,
    Where,
)
from cni.protocol import Attachment
from cni.results import Result

ATTACHMENT = Attachment("netplane", "a" * 64, "eth0")
EXCLUDE = (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))
TERMS = Terms(plan.link_name(ATTACHMENT), "/proc/7/ns/net", "4:7", "boot", 1450, EXCLUDE)
LEASE = Lease(ATTACHMENT, (ip_address("10.244.1.2"), ip_address("fd00:10:244:1::2")), TERMS, State.LIVE)


def test_names_fit_and_differ():
    names = {
        plan.link_name(Attachment(n, c, i)) for n in ("a", "b") for c in ("c", "d") for i in ("eth0", "eth1")
    }
    assert len(names) == 8
    assert all(len(name) <= 15 and name.startswith("np") for name in names)


def test_macs_are_unicast_and_locally_administered():
    for mac in plan.macs(ATTACHMENT):
        first = int(mac.split(":")[0], 16)
        assert first & 0b11 == 0b10
        assert len(mac.split(":")) == 6


def test_an_add_from_top_to_bottom():
    host_mac, pod_mac = plan.macs(ATTACHMENT)
    steps = plan.attach(LEASE)
    assert steps[0] == CreateVeth(TERMS.link, host_mac, "eth0", pod_mac, 1450)
    for address, gateway in zip(LEASE.addresses, ("169.254.1.1", "fe80::1"), strict=True):
        expected = [
            LinkUp(Where.HOST, TERMS.link),
            LinkUp(Where.POD, "eth0"),
            Transmit(Where.POD, "eth0"),
            PodAddress("eth0", address),
            Neighbour(Where.POD, "eth0", ip_address(gateway), host_mac),
            DefaultRoute("eth0", ip_address(gateway)),
            Neighbour(Where.HOST, TERMS.link, address, pod_mac),
            HostRoute(TERMS.link, address),
            Transmit(Where.HOST, TERMS.link),
            NoMulticastRoute(TERMS.link),
        ]
        positions = [steps.index(step) for step in expected]
        assert positions == sorted(positions)
    assert isinstance(steps[-1], Firewall)


def apply_to(kernel, step):
    """A kernel as a set of what is in it; a link takes along what is on it."""
    match step:
        case DeleteLink():
            kernel.intersection_update({"elements"})
        case Firewall(adding=False):
            kernel.discard("elements")
        case Firewall():
            kernel.add("elements")
        case _:
            kernel.add(step)


@pytest.mark.parametrize("failing", range(len(plan.attach(LEASE)) + 1))
def test_an_add_cut_short_at_any_step_is_undone(failing):
    kernel, steps = set(), plan.attach(LEASE)
    for step in steps[:failing]:
        apply_to(kernel, step)
    for step in reversed(steps[:failing]):
        back = plan.undo(step, LEASE)
        if back is not None:
            apply_to(kernel, back)
    assert kernel == set()
    for step in plan.detach(LEASE):
        apply_to(kernel, step)
    assert kernel == set()


def test_the_result_is_what_was_made():
    result = plan.result(LEASE, {"nameservers": ["10.96.0.10"]}, "/proc/7/ns/net")
    host, pod = result.interfaces
    made = plan.attach(LEASE)[0]
    assert (host.name, host.mac, host.sandbox) == (made.host, made.host_mac, "")
    assert (pod.name, pod.mac, pod.sandbox) == ("eth0", made.pod_mac, "/proc/7/ns/net")
    assert [str(a) for a in result.addresses] == ["10.244.1.2/32", "fd00:10:244:1::2/128"]
    assert {a.interface for a in result.addresses} == {1}
    assert [(str(r.dst), str(r.gw)) for r in result.routes] == [
        ("0.0.0.0/0", "169.254.1.1"),
        ("::/0", "fe80::1"),
    ]
    assert result.dns == {"nameservers": ["10.96.0.10"]}


def test_firewall_text_has_one_element_a_pod_and_the_exclusions_before_masquerade():
    text = firewall.attach(LEASE)
    assert text.count("add element inet netplane_cni hairpin4") == 1
    assert text.count("add element inet netplane_cni leaving4-") == 1
    chain = [line for line in text.splitlines() if line.startswith("add rule")]
    assert chain[-1].endswith("masquerade")
    assert any("ip daddr 10.244.0.0/16 return" in line for line in chain)
    assert any("ip6 daddr fd00:10:244::/56 return" in line for line in chain)


def test_without_masquerade_only_hairpin():
    bare = replace(LEASE, terms=replace(TERMS, exclude=None))
    assert not any("leaving" in element.name for element in firewall.of_lease(bare))
    assert firewall.elements(bare) == {
        ("hairpin4", "10.244.1.2 . 10.244.1.2"),
        ("hairpin6", "fd00:10:244:1::2 . fd00:10:244:1::2"),
    }


def healthy():
    host_mac, pod_mac = plan.macs(ATTACHMENT)
    return Observed(
        host=Link(TERMS.link, host_mac, 1450, up=True),
        pod=Link("eth0", pod_mac, 1450, up=True),
        loopback_up=True,
        pod_addresses=frozenset({*LEASE.addresses, ip_address("192.0.2.9")}),
        pod_gateways=frozenset(plan.GATEWAYS.values()),
        host_routes=frozenset(LEASE.addresses),
        host_neighbours=frozenset((address, pod_mac) for address in LEASE.addresses),
        firewall=firewall.elements(LEASE) | {("hairpin4", "10.244.1.99")},
        firewall_rules=True,
    )


def previous():
    return plan.result(LEASE, {}, "/x")


def test_what_is_as_promised_has_no_difference_and_additions_are_tolerated():
    other = Result(interfaces=previous().interfaces * 2)
    assert differences(LEASE, healthy(), previous().followed_by(other)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"host": None}, "of the host is missing"),
        ({"pod": None}, "link eth0 of the pod is missing"),
        ({"pod": Link("eth0", plan.macs(ATTACHMENT)[1], 1450, up=False)}, "link eth0 of the pod is down"),
        ({"pod": Link("eth0", "02:00:00:00:00:00", 1450, up=True)}, "has the address 02:00:00:00:00:00"),
        ({"pod": Link("eth0", plan.macs(ATTACHMENT)[1], 9000, up=True)}, "has MTU 9000, not 1450"),
        ({"loopback_up": False}, "link lo of the pod is down"),
        ({"pod_addresses": frozenset()}, "address 10.244.1.2 of the pod is missing"),
        ({"pod_gateways": frozenset()}, "default route of the pod by 169.254.1.1"),
        ({"host_routes": frozenset()}, "route of the host to 10.244.1.2"),
        ({"host_neighbours": frozenset()}, "neighbour entry of the host for 10.244.1.2"),
        ({"firewall": frozenset()}, "element 10.244.1.2 of nftables leaving4-"),
        ({"firewall_rules": False}, "rules of nftables table netplane_cni"),
    ],
)
def test_each_loss_is_named(change, words):
    found = differences(LEASE, replace(healthy(), **change), previous())
    assert any(words in difference for difference in found), found


def test_a_prev_result_of_something_else_is_a_difference():
    other = replace(previous(), addresses=(), interfaces=previous().interfaces[:1])
    found = differences(LEASE, healthy(), other)
    assert any("prevResult does not have the address 10.244.1.2" in d for d in found)
    assert any("prevResult does not have the interface eth0" in d for d in found)
