"""The closing rules, driven by hypothesis through a model of sockets that take as much as they like."""

from select import EPOLLET, EPOLLIN, EPOLLOUT

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.userspace.streams.relay import NEXT, Event, Half, finished, interest, passes_fin


class Socket:
    """What a peer sends, and what it has received; ``space``: how many bytes it takes now."""

    def __init__(self, *, connected: bool) -> None:
        self.incoming = b""
        self.fin = False
        self.received = b""
        self.fin_received = False
        self.connected = connected
        self.space = 0


class RelayMachine(RuleBasedStateMachine):
    """One direction's engine, reduced to what the table decides: no clock, no descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.sink = Socket(connected=True), Socket(connected=False)
        self.sent = b""
        self.held = b""
        self.half = Half.FLOWING

    @rule(data=st.binary(min_size=1, max_size=8))
    @precondition(lambda self: not self.source.fin)
    def peer_sends(self, data: bytes) -> None:
        self.source.incoming += data
        self.sent += data

    @rule()
    def peer_finishes(self) -> None:
        self.source.fin = True

    @rule()
    def sink_connects(self) -> None:
        self.sink.connected = True

    @rule(space=st.integers(1, 10))
    def sink_makes_room(self, space: int) -> None:
        self.sink.space = space

    @rule(most=st.integers(1, 8))
    @precondition(lambda self: self.half is Half.FLOWING)
    def readable(self, most: int) -> None:
        data, self.source.incoming = self.source.incoming[:most], self.source.incoming[most:]
        if data:
            rest = self._write(data)
            if rest:
                self.held += rest
                self._step(Event.BLOCKED)
        elif self.source.fin:
            self._step(Event.EOF if self.sink.connected else Event.EOF_EARLY)

    @rule()
    @precondition(lambda self: interest(self.half) & EPOLLOUT and self.sink.connected)
    def writable(self) -> None:
        self.held = self._write(self.held)
        self._step(Event.BLOCKED if self.held else Event.DRAINED)

    def _write(self, data: bytes) -> bytes:
        assert not self.sink.fin_received, "nothing follows a FIN"
        if not self.sink.connected:
            return data
        taken, rest = data[: self.sink.space], data[self.sink.space :]
        self.sink.received += taken
        self.sink.space -= len(taken)
        return rest

    def _step(self, event: Event) -> None:
        before, self.half = self.half, NEXT[self.half, event]
        if passes_fin(before, self.half):
            assert self.sink.connected, "a FIN before the connection would close it"
            self.sink.fin_received = True

    @invariant()
    def bytes_arrive_in_order_and_once(self) -> None:
        assert self.sink.received + self.held + self.source.incoming == self.sent

    @invariant()
    def fin_comes_last(self) -> None:
        if self.sink.fin_received:
            assert self.sink.received == self.sent
            assert self.half is Half.ENDED

    @invariant()
    def nothing_is_read_while_something_is_held(self) -> None:
        if self.held:
            assert self.half is not Half.FLOWING

    def teardown(self) -> None:
        """Whatever happened: with room and a connection, everything arrives, and the FIN."""
        self.sink.connected, self.source.fin = True, True
        for _ in range(2 * len(self.sent) + 8):
            self.sink.space = 4
            if self.half is Half.FLOWING:
                self.readable(4)
            elif self.half is not Half.ENDED:
                self.writable()
        assert self.sink.fin_received
        assert self.sink.received == self.sent


TestRelay = RelayMachine.TestCase
TestRelay.settings = settings(max_examples=40, stateful_step_count=30)
HALVES = st.sampled_from(Half)


@given(HALVES, HALVES)
def test_what_a_socket_waits_for(outgoing: Half, incoming: Half) -> None:
    mask = interest(incoming)
    assert mask & EPOLLIN
    assert mask & EPOLLET, "else a socket that holds would be told of for ever"
    assert bool(mask & EPOLLOUT) == (incoming in (Half.HELD, Half.HELD_LAST))
    assert finished(outgoing, incoming) == (outgoing is incoming is Half.ENDED)


def test_ended_is_the_end() -> None:
    assert not [state for state, _ in NEXT if state is Half.ENDED]
