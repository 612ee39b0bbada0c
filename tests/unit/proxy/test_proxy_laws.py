"""Small pure rooms of the proxy: the difference, turns, JSON, whose address is seen, the rules as text."""

import os
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.balance import Affinity, RoundRobin
from proxy.codec import decode_snapshot, encode_snapshot
from proxy.diff import apply, diff
from proxy.health import Health, is_eligible
from proxy.model import (
    Balance,
    Endpoint,
    Frontend,
    HealthCheck,
    NodeFacts,
    Pool,
    Protocol,
    ServicePort,
    Snapshot,
    Target,
    WhenEmpty,
)
from proxy.targets import Targets
from proxy.userspace.listeners import kept_name
from proxy.userspace.observe import parse_address
from proxy.userspace.ruleset import Drop, marker, render
from proxy.userspace.sources import classify, keeps_address

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
FRONTENDS = st.builds(Frontend, ADDRESSES, st.integers(1, 65535), st.sampled_from(Protocol))
POOLS = st.builds(
    Pool,
    st.lists(
        st.builds(Endpoint, ADDRESSES, st.integers(1, 65535), st.booleans(), st.booleans()), max_size=3
    ).map(tuple),
    st.sampled_from(WhenEmpty),
)
NETWORKS = st.sampled_from([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
TARGETS = st.builds(
    Target,
    st.builds(ServicePort, st.just("default"), st.text("abc", min_size=1), st.just("80")),
    POOLS,
    POOLS,
    st.none() | st.integers(1, 86400),
    st.booleans(),
    st.lists(NETWORKS, max_size=2).map(tuple),
    st.sampled_from(Balance),
    st.booleans(),
    st.none() | st.integers(1, 86400),
    st.none() | st.integers(1, 86400),
)
MAPPINGS = st.dictionaries(FRONTENDS, TARGETS, max_size=3)
CHECKS = st.dictionaries(
    st.integers(1, 65535),
    st.builds(HealthCheck, st.just("default"), st.text("abc", min_size=1), st.integers(0, 99)),
    max_size=2,
)
EDITS = st.dictionaries(st.integers(0, 3), st.none() | TARGETS, max_size=3)
NODE = NodeFacts(
    "n1",
    (ip_address("192.168.77.11"),),
    (ip_network("10.244.1.0/24"),),
    (ip_network("10.244.0.0/16"),),
    (ip_network("10.96.0.0/12"),),
)


@settings(max_examples=40)
@given(MAPPINGS, MAPPINGS)
def test_applying_the_difference_gives_what_is_wanted(have, want) -> None:
    changes = diff(have, want)
    assert apply(have, changes) == want
    assert bool(changes) == (have != want)


@settings(max_examples=20)
@given(MAPPINGS, st.data())
def test_the_difference_touches_only_what_differs(have, data) -> None:
    want = {f: data.draw(TARGETS) if data.draw(st.booleans()) else t for f, t in have.items()}
    changes = diff(have, want)
    assert not changes.added
    assert not changes.removed
    assert set(changes.changed) == {f for f in have if have[f] != want[f]}


@settings(max_examples=40)
@given(
    MAPPINGS,
    st.lists(
        st.tuples(st.dictionaries(st.integers(0, 3), st.none() | TARGETS, max_size=3), st.booleans()),
        max_size=4,
    ),
)
def test_every_version_of_the_targets_stays_what_it_was(start, edits) -> None:
    """Held against plain dictionaries; some versions are read on the way, which must change none."""
    known = [Frontend(ip_address("10.0.0.1"), port, Protocol.TCP) for port in range(4)]
    versions, expected = [Targets(start)], [dict(start)]
    for edit, look in edits:
        named = {known[index]: target for index, target in edit.items()}
        versions.append(versions[-1].derive(named))
        merged = {**expected[-1], **named}
        expected.append({f: target for f, target in merged.items() if target is not None})
        if look:
            assert diff(versions[0], versions[-1]) == diff(expected[0], expected[-1])
    for version, plain in zip(versions, expected, strict=True):
        assert version == plain
        assert (dict(version), len(version), set(version)) == (plain, len(plain), set(plain))
        assert all(version.get(f) == plain.get(f) for f in known)
        for other, other_plain in zip(versions, expected, strict=True):
            assert (version == other) == (plain == other_plain)
            assert apply(version, diff(version, other)) == other_plain


def test_an_older_version_can_go_another_way() -> None:
    one, two = (Frontend(ip_address("10.0.0.1"), port, Protocol.TCP) for port in (1, 2))
    target = Target(ServicePort("default", "web", "80"), Pool(), Pool())
    first = Targets({one: target})
    second, third = first.derive({one: None}), first.derive({two: target})
    assert (set(first), set(second), set(third)) == ({one}, set(), {one, two})


@settings(max_examples=40)
@given(MAPPINGS, st.integers(0, 2**63), CHECKS)
def test_a_snapshot_survives_json(targets, revision, checks) -> None:
    snapshot = Snapshot(NODE, targets, revision, checks=checks)
    again = decode_snapshot(encode_snapshot(snapshot))
    assert again == snapshot
    assert again.revision == revision


def test_a_snapshot_kept_by_an_older_netplane_can_be_used() -> None:
    document = encode_snapshot(Snapshot(NODE, {}, 1))
    del document["checks"]
    assert decode_snapshot(document) == Snapshot(NODE, {}, 1)


@given(st.integers(1, 7), st.integers(1, 5))
def test_round_robin_serves_all_equally_often(count, rounds) -> None:
    turns = RoundRobin()
    endpoints = [Endpoint(ip_address(f"10.0.0.{i}"), 80) for i in range(count)]
    picked = [turns.next(endpoints) for _ in range(count * rounds)]
    assert picked == list(range(count)) * rounds


def test_round_robin_goes_on_when_endpoints_come_and_go() -> None:
    turns = RoundRobin()
    three = [Endpoint(ip_address(f"10.0.0.{i}"), 80) for i in range(3)]
    assert [turns.next(three), turns.next(three)] == [0, 1]
    assert [turns.next(three[:2]), turns.next(three[:2])] == [0, 1]
    with pytest.raises(IndexError):
        turns.next([])


def test_affinity_lasts_for_its_time_and_no_longer_than_the_endpoint() -> None:
    affinity = Affinity(most=2)
    two = [Endpoint(ip_address("10.0.0.1"), 80), Endpoint(ip_address("10.0.0.2"), 80)]
    affinity.remember("a", two[1], until=10)
    assert affinity.find("a", two, now=9) == 1
    assert affinity.find("a", two, now=10) is None
    assert affinity.find("a", two[:1], now=9) is None
    affinity.remember("b", two[0], until=10)
    affinity.remember("a", two[0], until=20)
    affinity.remember("c", two[0], until=20)
    assert affinity.find("b", two, now=1) is None, "the one that came longest ago is forgotten"
    assert affinity.find("a", two, now=1) == 0


MASTER = Endpoint(ip_address("192.168.77.10"), 6443)
MYSELF = Endpoint(ip_address("192.168.77.11"), 8080, local=True)
HERE, THERE = Endpoint(ip_address("10.244.1.3"), 80, local=True), Endpoint(ip_address("10.244.2.3"), 80)


@pytest.mark.parametrize(
    ("client", "endpoint", "keep_outside", "kept", "because"),
    [
        ("10.244.1.2", HERE, False, True, "a pod to a pod of its node"),
        ("10.244.1.2", THERE, False, True, "replies to this node's pods pass this node"),
        ("10.244.2.2", HERE, False, True, "replies from this node's pods pass this node"),
        ("10.244.2.2", THERE, False, False, "they would never pass here"),
        ("10.244.1.3", HERE, False, False, "hairpin: the pod would answer itself"),
        ("192.168.77.11", HERE, False, False, "the node's own clients have its address anyway"),
        ("127.0.0.1", HERE, False, False, "loopback means nothing elsewhere"),
        ("203.0.113.9", HERE, False, False, "policy Cluster"),
        ("203.0.113.9", HERE, True, True, "policy Local"),
        ("203.0.113.9", THERE, True, False, "policy Local keeps only what comes back"),
        ("10.244.1.2", MASTER, False, False, "a machine has no way back to pods"),
        ("10.244.1.2", MYSELF, False, False, "replies of this node's own sockets never arrive on it"),
        ("fd00::9", HERE, True, False, "another address family"),
    ],
)
def test_whose_address_the_endpoint_sees(client, endpoint, keep_outside, kept, because) -> None:
    assert keeps_address(classify(client, NODE), endpoint, keep_outside, NODE.cluster_cidrs) is kept, because


def test_who_is_inside() -> None:
    inside = ("10.244.1.2", "10.244.9.9", "192.168.77.11", "127.0.0.1", "::1")
    assert [classify(text, NODE).inside for text in inside] == [True] * 5
    assert not classify("192.168.77.12", NODE).inside
    assert not classify("fe80::1%eth0", NODE).inside


def test_rules_are_the_same_whatever_the_order() -> None:
    addresses = [ip_address("203.0.113.7"), ip_address("203.0.113.6"), ip_address("10.96.0.9")]
    drops = [Drop(4, None, 30080), Drop(4, ip_address("10.96.0.3"), 80, everyone=True)]
    script = render(NODE, addresses, drops)
    assert script == render(NODE, addresses[::-1], drops[::-1])
    assert marker(script) != marker(render(NODE, addresses, drops[:1]))
    assert "ip daddr 10.96.0.9" not in script, "the Service network covers it"
    assert "ip daddr 203.0.113.6/31 meta l4proto tcp socket wildcard 1 reject with tcp reset" in script
    assert "    ip daddr 10.96.0.3 tcp dport 80 drop\n" in script
    assert 'iifname != "lo" ip saddr != { 10.244.0.0/16, 192.168.77.11/32 } meta nfproto ipv4' in script


def test_names_of_kept_descriptors_fit_into_one_string_of_the_environment() -> None:
    """A node that serves 14,000 addresses starts again; longer ones would fail with E2BIG for ever."""
    first = int(ip_address("fd00:10:96::"))
    frontends = [
        Frontend(ip_address(first + number), 65535, protocol)
        for number in range(7000)
        for protocol in (Protocol.TCP, Protocol.UDP)
    ]
    names = {kept_name(frontend) for frontend in frontends}
    assert len(names) == 14_000
    assert all(name.isprintable() and name.isascii() and ":" not in name for name in names)
    environment = {**os.environ, "LISTEN_FDNAMES": ":".join(names)}
    assert os.waitpid(os.posix_spawnp("true", ["true"], environment), 0)[1] == 0


def test_addresses_of_proc_net() -> None:
    assert parse_address("0100007F:1F90") == (ip_address("127.0.0.1"), 8080)
    assert parse_address("00000000000000000000000001000000:0050") == (ip_address("::1"), 80)


def test_health_is_kube_proxys() -> None:
    health = Health()
    health.queue(1)
    assert health.page(100, with_node=False)[0] == 200, "it starts"
    health.eligible = False
    status, body = health.page(100, with_node=True)
    assert status == 503
    assert body == (
        '{"lastUpdated": "0001-01-01 00:00:00 +0000 UTC","currentTime": "1970-01-01 00:01:40 +0000 UTC", '
        '"nodeEligible": false}'
    )
    health.eligible = True
    health.sync(100)
    status, body = health.page(101.25, with_node=True)
    assert status == 200
    assert body == (
        '{"lastUpdated": "1970-01-01 00:01:41.25 +0000 UTC","currentTime": "1970-01-01 00:01:41.25 +0000 UTC", '
        '"nodeEligible": true}'
    ), "what is healthy is as new as can be"
    health.queue(110)
    health.queue(150)
    assert health.page(169, with_node=False)[0] == 200
    assert health.page(171, with_node=False) == (
        503,
        '{"lastUpdated": "1970-01-01 00:01:40 +0000 UTC","currentTime": "1970-01-01 00:02:51 +0000 UTC"}',
    ), "the oldest change waits for over a minute"
    health.sync(172)
    health.eligible = False
    assert health.page(173, with_node=True)[0] == 503
    assert health.page(173, with_node=False)[0] == 200, "/livez ignores the node"


def test_a_node_that_leaves_is_not_eligible() -> None:
    assert is_eligible(None)
    assert is_eligible({"spec": {"taints": [{"key": "other"}]}})
    assert not is_eligible({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}})
    assert not is_eligible({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
