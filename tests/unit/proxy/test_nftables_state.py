"""The bookkeeping of the nftables data path: following changes comes to where a new start would."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.diff import apply, diff
from proxy.model import Endpoint, Frontend, NodeFacts, Pool, Protocol, ServicePort, Target, WhenEmpty
from proxy.nftables import observe
from proxy.nftables.choosing import rules_of
from proxy.nftables.elements import SHARED, arrange
from proxy.nftables.names import Kind, Learn, Pick
from proxy.nftables.state import Contents, State, Work, mending

NODE = NodeFacts(
    "n1",
    (ip_address("192.168.77.11"), ip_address("fd00:77::11")),
    (ip_network("10.244.1.0/24"),),
    (ip_network("10.244.0.0/16"),),
    (ip_network("10.96.0.0/12"),),
)
ADDRESSES = {
    4: ["10.96.0.1", "10.96.0.2", "0.0.0.0", "203.0.113.7"],
    6: ["fd00:10:96::1", "::"],
}
ENDPOINTS = {4: "10.244.1.{}", 6: "fd00:10:244::{}"}


def pools(version: int) -> st.SearchStrategy[Pool]:
    endpoint = st.builds(
        Endpoint,
        st.integers(1, 9).map(lambda n: ip_address(ENDPOINTS[version].format(n))),
        st.integers(8080, 8081),
        st.booleans(),
    )
    return st.builds(
        Pool, st.lists(endpoint, max_size=4, unique_by=str).map(tuple), st.sampled_from(WhenEmpty)
    )


@st.composite
def entries(draw: st.DrawFn) -> tuple[Frontend, Target]:
    version = draw(st.sampled_from([4, 6]))
    address = ip_address(draw(st.sampled_from(ADDRESSES[version])))
    frontend = Frontend(address, draw(st.integers(80, 81)), draw(st.sampled_from(Protocol)))
    inside = draw(pools(version))
    outside = draw(st.one_of(st.just(inside), pools(version)))
    network = ip_network("192.168.0.0/16" if version == 4 else "fd00::/16")
    target = Target(
        ServicePort("default", "web", "80"),
        inside,
        outside,
        draw(st.sampled_from([None, 60, 10800])),
        keep_outside_address=outside is not inside,
        allowed=draw(st.sampled_from([(), (network,)])) if int(address) else (),
    )
    return frontend, target


TARGETS = st.lists(entries(), max_size=5).map(dict)


def applied(contents: Contents, work: Work) -> Contents:
    """As the kernel would: an element is deleted only where it is, and added only where it is not."""
    after = {name: dict(elements) for name, elements in contents.items()}
    for edit in work.edits:
        for head in edit.delete:
            del after[edit.name][head]
    for edit in work.edits:
        for head, tail in (edit.add or {}).items():
            assert head not in after[edit.name]
            after[edit.name][head] = tail
    return after


@settings(deadline=None)
@given(sequence=st.lists(TARGETS, min_size=1, max_size=5))
def test_following_comes_to_where_a_new_start_would(sequence: list[dict[Frontend, Target]]) -> None:
    state, have = State(NODE), sequence[0]
    contents = state.begin(have, {}, {})
    for want in sequence[1:]:
        changes = diff(have, want)
        contents = applied(contents, state.follow(changes))
        have = apply(have, changes)
        fresh = State(NODE)
        assert contents == fresh.begin(want, state.placed, contents)
        assert (state.shared, state.singles) == (fresh.shared, fresh.singles)
        assert state.chains >= fresh.chains
        assert mending(contents, contents) == ()
        assert observe.decode(contents) == {f: told(target, contents) for f, target in want.items()}


def told(target: Target, contents: Contents) -> Target:
    """A target as the kernel's elements tell it: sorted, and local by address."""
    here = {head for name, elements in contents.items() if name.startswith("local") for head in elements}

    def pool(given: Pool) -> Pool:
        ends = [
            replace(e, local=any(head.endswith(e.address.packed) for head in here)) for e in given.endpoints
        ]
        found = tuple(sorted(dict.fromkeys(ends), key=lambda e: e.order))
        return Pool(found, WhenEmpty.REJECT if found else given.when_empty)

    affinity = None if target.empty else target.affinity
    return replace(target, inside=pool(target.inside), outside=pool(target.outside), affinity=affinity)


SLOTS = st.lists(st.integers(0, 9).map(lambda n: bytes([n])), unique=True, max_size=8)


@given(before=SLOTS, wanted=SLOTS)
def test_endpoints_that_stay_keep_their_slots(before: list[bytes], wanted: list[bytes]) -> None:
    after = arrange(before, wanted)
    assert sorted(after) == sorted(wanted)
    assert all(after[i] == e for i, e in enumerate(before[: len(wanted)]) if e in wanted)


def test_shared_sets_are_those_without_a_frontend_in_their_key() -> None:
    assert {name[:-1] for name in SHARED} == {"local", "hairpin"}


def test_chains_are_made_of_few_instructions() -> None:
    plain = rules_of(Pick(Kind.SERVICE, 4, 5))
    assert [len(rule) for rule in plain.rules] == [3, 8, 8], (
        "mark; then IPv4, key, index, lookup, DNAT; the first slot"
    )
    sticky = rules_of(Pick(Kind.SERVICE, 6, 5, sticky=True))
    assert len(sticky.rules) == 5, "mark; note the Service port; whom this client had; anyone; the first"
    assert len(rules_of(Learn(Kind.PORT, 6, 60)).rules) == 3
