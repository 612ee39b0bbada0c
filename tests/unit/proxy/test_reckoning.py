"""Flows of a killed worker: those whose bytes are all accounted for go on, and no other."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.userspace.streams.relay import Half
from proxy.userspace.workers.reckoning import (
    CLOSE,
    CLOSE_WAIT,
    ESTABLISHED,
    FIN_WAIT1,
    FIN_WAIT2,
    LAST_ACK,
    SYN_SENT,
    Side,
    outcome,
)

SIZES = st.integers(0, 1 << 40)


@dataclass(frozen=True)
class Direction:
    """What happened in one direction: bytes that arrived unread, that are held, given, and lost in a worker."""

    unread: int
    held: int
    unacked: int
    acked: int
    lost: int
    ended: bool  # the source has sent its FIN
    passed: bool  # and it was passed on, after the last byte

    @property
    def read(self) -> int:
        return self.acked + self.unacked + self.held + self.lost


def directions(lost: st.SearchStrategy[int]) -> st.SearchStrategy[Direction]:
    made = st.builds(Direction, SIZES, SIZES, SIZES, SIZES, lost, st.booleans(), st.booleans())
    return made.map(
        lambda d: replace(d, unread=0, held=0) if d.ended and d.passed else replace(d, passed=False)
    )


def state(source: Direction, sink: Direction) -> int:
    """Of a socket that is read in one direction and written in the other (RFC 9293, figure 5)."""
    if sink.passed and source.ended:
        return CLOSE if sink.unacked == 0 else LAST_ACK
    if sink.passed:
        return FIN_WAIT2 if sink.unacked == 0 else FIN_WAIT1
    return CLOSE_WAIT if source.ended else ESTABLISHED


def side(source: Direction, sink: Direction, *, called: bool) -> Side:
    """As the kernel counts: a FIN is a byte received, and one sent; a SYN is a byte acknowledged."""
    fin_unacked = sink.passed and sink.unacked > 0
    return Side(
        state(source, sink),
        received=source.read + source.unread + source.ended,
        unread=source.unread,
        acked=sink.acked + called + (sink.passed and not fin_unacked),
        unacked=sink.unacked + fin_unacked,
    )


def look(up: Direction, down: Direction) -> tuple[Half, Half] | None:
    client, endpoint = side(up, down, called=False), side(down, up, called=True)
    return outcome(client, endpoint, up.held, down.held)


def half(direction: Direction) -> Half:
    if direction.passed:
        return Half.ENDED
    return Half.HELD if direction.held else Half.FLOWING


@given(directions(st.just(0)), directions(st.just(0)))
def test_a_whole_flow_goes_on_where_it_stood(up: Direction, down: Direction) -> None:
    expected = None if up.passed and down.passed else (half(up), half(down))
    assert look(up, down) == expected


@given(directions(st.integers(-1 << 20, 1 << 20).filter(bool)), directions(st.just(0)), st.booleans())
def test_a_flow_that_lost_a_byte_or_would_give_it_twice_ends(
    bad: Direction, good: Direction, swap: bool
) -> None:
    up, down = (good, bad) if swap else (bad, good)
    assert look(up, down) is None


@given(directions(st.just(0)), directions(st.just(0)))
def test_a_side_that_was_reset_is_never_taken_for_one_that_ended(up: Direction, down: Direction) -> None:
    """In CLOSE the counts alone tell: a reset connection has no FIN among what was received."""
    up, down = replace(up, ended=False, passed=False), replace(down, ended=False, passed=False)
    client, endpoint = side(up, down, called=False), side(down, up, called=True)
    assert outcome(replace(client, state=CLOSE), endpoint, up.held, down.held) is None
    assert outcome(client, replace(endpoint, state=CLOSE), up.held, down.held) is None


def test_an_endpoint_that_has_not_answered_is_dialled_anew() -> None:
    client = Side(ESTABLISHED, received=0, unread=0, acked=0, unacked=0)
    endpoint = Side(SYN_SENT, received=0, unread=0, acked=0, unacked=0)
    assert outcome(client, endpoint, 0, 0) is None
    assert client.untouched


@pytest.mark.parametrize(("received", "unread", "acked"), [(5, 0, 0), (0, 0, 1), (9, 4, 0)])
def test_a_client_that_was_read_or_written_is_not_served_anew(received, unread, acked) -> None:
    assert not Side(ESTABLISHED, received=received, unread=unread, acked=acked, unacked=0).untouched


@given(directions(st.just(0)), directions(st.just(0)), st.sampled_from([28, 52]), st.data())
def test_a_header_of_ours_counts_for_the_endpoint_only(
    up: Direction, down: Direction, header: int, data
) -> None:
    """It is the first that the endpoint is given; what of it is still held is held with the rest."""
    held = data.draw(st.integers(0, header)) if up.acked + up.unacked == 0 and not up.passed else 0
    client, endpoint = side(up, down, called=False), side(down, up, called=True)
    endpoint = replace(endpoint, acked=endpoint.acked + header - held)
    found = outcome(client, endpoint, up.held + held, down.held, header)
    assert (found is None) == (up.passed and down.passed)
    assert outcome(client, endpoint, up.held + held, down.held) is None, "it must be known"
    lost = replace(client, received=client.received + header)
    assert outcome(lost, endpoint, up.held + held, down.held, header) is None
