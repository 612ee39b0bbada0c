"""Routes from Nodes: whole, ours, and a bad Node harms no other."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from netplane.node.routes import Route, diff, wanted


def node(name, cidr, address, created="2026-01-01T00:00:00Z"):
    return {
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"podCIDRs": [cidr]} if cidr else {},
        "status": {"addresses": [{"type": "InternalIP", "address": address}] if address else []},
    }


def route(cidr, gateway):
    return Route(ip_network(cidr), ip_address(gateway) if gateway else None)


OWN = node("n1", "10.244.1.0/24", "192.168.77.11")
PEER = node("n2", "10.244.2.0/24", "192.168.77.12")


def test_peers_by_their_address_and_our_own_unreachable():
    want = wanted("n1", [OWN, PEER])
    assert want.routes == {route("10.244.1.0/24", None), route("10.244.2.0/24", "192.168.77.12")}
    assert want.warnings == ()


def test_a_node_without_pod_cidrs_has_no_route_yet():
    assert wanted("n1", [OWN, node("n3", "", "192.168.77.13")]).warnings == ()


def test_bad_nodes_are_skipped_and_named():
    bad = [
        node("n3", "10.244.999.0/24", "192.168.77.13"),
        node("n4", "10.244.4.0/24", ""),
        node("n5", "10.244.5.0/24", "nonsense"),
        node("n6", "10.244.6.0/24", "10.244.6.1"),
        node("n7", "10.244.1.128/25", "192.168.77.17"),
    ]
    want = wanted("n1", [*bad, PEER, OWN])
    assert want.routes == wanted("n1", [OWN, PEER]).routes
    for name in ("n3", "n4", "n5", "n6", "n7"):
        assert any(f"node {name}:" in warning for warning in want.warnings)


def test_the_older_of_two_claimants_has_the_cidr():
    old = node("zz", "10.244.9.0/24", "192.168.77.30", "2025-01-01T00:00:00Z")
    new = node("aa", "10.244.9.0/24", "192.168.77.31", "2026-01-01T00:00:00Z")
    want = wanted("n1", [new, old])
    assert want.routes == {route("10.244.9.0/24", "192.168.77.30")}
    assert want.warnings == (
        "node aa: no route to its pod CIDR 10.244.9.0/24: overlaps 10.244.9.0/24 of node zz",
    )


def test_what_we_claim_no_node_takes_away():
    thief = node("aa", "10.244.0.0/16", "192.168.77.31", "2020-01-01T00:00:00Z")
    assert route("10.244.1.0/24", None) in wanted("n1", [thief, OWN]).routes


def test_a_changed_gateway_is_replaced_not_removed():
    changes = diff(
        frozenset({route("10.244.2.0/24", "192.168.77.12")}),
        frozenset({route("10.244.2.0/24", "192.168.77.99")}),
    )
    assert changes.remove == ()
    assert changes.add == (route("10.244.2.0/24", "192.168.77.99"),)


tables = st.dictionaries(
    st.integers(0, 20).map(lambda n: ip_network(f"10.244.{n}.0/24")),
    st.one_of(st.none(), st.integers(2, 9).map(lambda n: ip_address(f"192.168.77.{n}"))),
    max_size=8,
).map(lambda table: frozenset(Route(key, value) for key, value in table.items()))


@given(present=tables, want=tables)
def test_applying_the_difference_gives_what_is_wanted(present, want):
    changes = diff(present, want)
    table = {r.destination: r for r in present}
    for r in changes.remove:
        del table[r.destination]
    for r in changes.add:
        table[r.destination] = r
    assert frozenset(table.values()) == want
    assert diff(want, want).add == diff(want, want).remove == ()
