"""Whether a flow is whole, from what the kernel has counted on both of its sides.

Why pure: the counts have their oddities (a SYN and a FIN count as a byte each, where they count at all), and a
wrong answer is either a corrupt stream or a connection cut without need.

The law: what was read of a source, less what lies in the pipe, is what was given to the sink. An endpoint that asked
for the PROXY protocol was given its header besides, which nobody sent: whether that is so must be known, for it makes
up for as many bytes that are lost.
"""

from dataclasses import dataclass

from proxy.userspace.streams.relay import Half, finished

# linux/tcp_states.h
ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = 1, 2, 4, 5, 6
CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 7, 8, 9, 11
# In CLOSE a connection was over in both directions, or reset; then the counts tell which.
PEER_HAS_ENDED = frozenset({TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING})
WE_HAVE_ENDED = frozenset({FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, LAST_ACK, CLOSING})


@dataclass(frozen=True, slots=True)
class Side:
    """One socket: its state, and bytes (tcp(7), linux/tcp.h)."""

    state: int
    received: int  # tcpi_bytes_received; the FIN counts
    unread: int  # SIOCINQ; the FIN does not count
    acked: int  # tcpi_bytes_acked; of a socket that called connect(2), the SYN counts; the FIN as well
    unacked: int  # SIOCOUTQ; the FIN counts

    @property
    def read(self) -> int:
        """Bytes taken from it."""
        return self.received - self.unread - (self.state in PEER_HAS_ENDED)

    def written(self, *, called: bool) -> int:
        """Bytes given to it. ``called``: it is the side that called connect(2)."""
        return self.acked + self.unacked - called - (self.state in WE_HAVE_ENDED)

    @property
    def untouched(self) -> bool:
        """Whether an accepted client has been neither read nor written."""
        return self.state in (ESTABLISHED, CLOSE_WAIT) and self.read == 0 and self.written(called=False) == 0

    @property
    def open(self) -> bool:
        """Whether its peer may still send."""
        return self.state not in PEER_HAS_ENDED


def outcome(
    client: Side, endpoint: Side, held_up: int, held_down: int, preface: int = 0
) -> tuple[Half, Half] | None:
    """Where both directions stand (from the client first), or None where the flow cannot go on.

    ``held_up`` and ``held_down``: bytes in the pipes of the two directions. ``preface``: bytes of a header that was
    put before what the client sends.
    """
    if endpoint.state == SYN_SENT or client.state == endpoint.state == CLOSE:
        return None  # nothing was given yet; or nobody is left
    if client.read + preface - held_up != endpoint.written(called=True):
        return None
    if endpoint.read - held_down != client.written(called=False):
        return None
    up, down = _half(endpoint, held_up), _half(client, held_down)
    return None if finished(up, down) else (up, down)


def _half(sink: Side, held: int) -> Half:
    if sink.state in WE_HAVE_ENDED:
        return Half.ENDED
    return Half.HELD if held else Half.FLOWING
