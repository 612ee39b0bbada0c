"""Addresses: the laws of the choice, and of the store under any order of ADD, DEL and crash."""

import tempfile
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cni.errors import CniError, Code
from cni.ipam import Pool, Range, candidates, choose
from cni.lease import State, Terms
from cni.leases import Leases, read
from cni.protocol import Attachment


def pool(*cidrs, **ends):
    return Pool(tuple(Range.of(ip_network(cidr), **ends) for cidr in cidrs))


@pytest.mark.parametrize(
    ("cidr", "usable"),
    [
        ("10.0.0.0/29", ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]),
        ("10.0.0.0/30", ["10.0.0.2"]),
        ("10.0.0.0/31", ["10.0.0.0", "10.0.0.1"]),
        ("10.0.0.7/32", ["10.0.0.7"]),
        ("fd00::/126", ["fd00::2", "fd00::3"]),
        ("::/126", ["::2", "::3"]),
    ],
)
def test_neither_network_nor_broadcast_nor_gateway(cidr, usable):
    assert [str(a) for a in candidates(pool(cidr), None)] == usable


def test_ends_narrow_the_range_and_never_widen_it():
    ends = {
        "first": ip_address("10.0.0.0"),
        "last": ip_address("10.0.0.255"),
        "gateway": ip_address("10.0.0.9"),
    }
    whole = pool("10.0.0.0/24", **ends)
    assert str(whole.ranges[0].first) == "10.0.0.1"
    assert str(whole.ranges[0].last) == "10.0.0.254"
    assert ip_address("10.0.0.9") not in whole
    assert ip_address("10.0.0.1") in whole
    assert ip_address("fd00::1") not in whole


def test_round_robin_after_the_last_one_given_over_all_ranges():
    both = pool("10.0.0.0/30", "10.0.1.0/29")
    assert str(choose(both, set(), None)) == "10.0.0.2"
    assert str(choose(both, set(), ip_address("10.0.0.2"))) == "10.0.1.2"
    assert str(choose(both, set(), ip_address("10.0.1.6"))) == "10.0.0.2"
    assert str(choose(both, {ip_address("10.0.0.2")}, ip_address("10.0.1.6"))) == "10.0.1.2"
    assert str(choose(both, set(), ip_address("192.0.2.1"))) == "10.0.0.2"


def test_an_exhausted_range_is_named():
    with pytest.raises(CniError, match=r"10\.0\.0\.0/30") as caught:
        choose(pool("10.0.0.0/30"), {ip_address("10.0.0.2")}, None)
    assert caught.value.code is Code.EXHAUSTED


subnets = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(24, 32)).map(
        lambda p: ip_network((p[0], p[1]), strict=False)
    ),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(120, 128)).map(
        lambda p: ip_network((p[0], p[1]), strict=False)
    ),
)


@given(subnets, st.data())
def test_every_usable_address_once_whatever_was_last(subnet, data):
    one = Pool((Range.of(subnet),))
    expected = list(candidates(one, None))
    last = data.draw(st.sampled_from([None, *expected, subnet[0]]))
    found = list(candidates(one, last))
    assert sorted(map(int, found)) == sorted(map(int, expected))
    assert len(set(found)) == len(found)
    assert all(address in one and address in subnet for address in found)
    if last in expected and len(found) > 1:
        assert found[-1] == last, "the one given last rests longest"


IDS = st.integers(0, 11).map(lambda n: Attachment("net", f"c{n}", "eth0"))
POOLS = (pool("10.9.0.0/29"), pool("fd00::/125"))


class LeaseMachine(RuleBasedStateMachine):
    """ADD, DEL and power cuts in any order, at any step of either."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "leases.sqlite"
        self.leases = Leases(self.path)
        self.known = {}

    def teardown(self):
        self.leases.close()
        self.directory.cleanup()

    @rule(attachment=IDS)
    def reserve(self, attachment):
        terms = Terms(f"np-{attachment.container_id}", "/x", "4:1", "boot", 1500, None)
        if attachment in self.known:
            with pytest.raises(CniError, match="attached already"):
                self.leases.reserve(attachment, POOLS, terms)
        elif len(self.known) == 5:
            with pytest.raises(CniError, match=r"every address of 10\.9\.0\.0/29") as caught:
                self.leases.reserve(attachment, POOLS, terms)
            assert caught.value.code is Code.EXHAUSTED
        else:
            lease = self.leases.reserve(attachment, POOLS, terms)
            assert not any(set(lease.addresses) & set(held) for held, _ in self.known.values())
            self.known[attachment] = (lease.addresses, State.RESERVING)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), step=st.sampled_from(["confirm", "begin_release", "release"]))
    def advance(self, data, step):
        attachment = data.draw(st.sampled_from(sorted(self.known)))
        getattr(self.leases, step)(attachment)
        addresses = self.known.pop(attachment)[0]
        if step != "release":
            self.known[attachment] = (addresses, State.LIVE if step == "confirm" else State.DELETING)

    @rule()
    def crash(self):
        self.leases.close()
        self.leases = Leases(self.path)

    @rule(attachment=IDS)
    def release_of_nothing_is_fine(self, attachment):
        if attachment not in self.known:
            assert self.leases.begin_release(attachment) is None
            self.leases.release(attachment)

    @invariant()
    def the_store_says_what_we_know(self):
        stored = {lease.attachment: (set(lease.addresses), lease.state) for lease in read(self.path)}
        assert stored == {a: (set(held), state) for a, (held, state) in self.known.items()}
        given_out = [address for held, _ in self.known.values() for address in held]
        assert len(set(given_out)) == len(given_out)
        assert all(any(address in one for one in POOLS) for address in given_out)
        assert self.leases.free(POOLS[0]) is (len(self.known) < 5)


LeaseMachine.TestCase.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)
TestLeases = LeaseMachine.TestCase
