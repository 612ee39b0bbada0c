"""When one direction of a relayed connection reads, holds and ends: the closing rules, as a table.

Why without I/O: half-close, slow readers and early data are where relays lose bytes, so the rules stand
alone and hypothesis drives them. The engine only carries out what they say.

The laws:
1. The source is read only while nothing of it is held, so no more than one pipe is ever in flight.
2. FIN is passed on after the last byte, and only to a sink that is connected.
3. What to wait for follows from the two directions' states alone; nothing else is remembered.
4. Events are told once (EPOLLET). So a direction that flows again is read at once, and one that is left with more
   to read is armed again; one that holds or has ended need not be silenced.
"""

from enum import IntEnum
from select import EPOLLERR, EPOLLET, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import Final

ERR: Final = EPOLLERR
OUT: Final = EPOLLOUT
PRI: Final = EPOLLPRI
RDHUP: Final = EPOLLRDHUP
READING: Final = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET


class Half(IntEnum):
    """One direction of a connection, from a source to a sink."""

    FLOWING = 0  # nothing is held, the source is read
    HELD = 1  # bytes wait for the sink: in the pipe, or unread where there is none
    HELD_LAST = 2  # as HELD (the pipe may be empty), and the source has ended
    ENDED = 3  # everything and the FIN were passed on


FLOWING: Final = Half.FLOWING  # by these names for what happens to every message: an enum's are looked up
ENDED: Final = Half.ENDED


class Event(IntEnum):
    """What can happen to one direction."""

    BLOCKED = 0  # the sink did not take everything
    DRAINED = 1  # the sink is connected, and has taken everything
    EOF = 2  # the source has ended; the sink is connected
    EOF_EARLY = 3  # the source has ended before the sink is known to be connected


# What is not in the table cannot happen: a direction that holds is not read, so it sees no end of file.
NEXT: dict[tuple[Half, Event], Half] = {
    (Half.FLOWING, Event.BLOCKED): Half.HELD,
    (Half.FLOWING, Event.EOF): Half.ENDED,
    (Half.FLOWING, Event.EOF_EARLY): Half.HELD_LAST,
    (Half.HELD, Event.BLOCKED): Half.HELD,
    (Half.HELD, Event.DRAINED): Half.FLOWING,
    (Half.HELD_LAST, Event.BLOCKED): Half.HELD_LAST,
    (Half.HELD_LAST, Event.DRAINED): Half.ENDED,
}


def passes_fin(before: Half, after: Half) -> bool:
    """Whether this step is the one at which the sink is shut down for writing."""
    return after is Half.ENDED and before is not Half.ENDED


def interest(incoming: Half) -> int:
    """The epoll mask of a socket: ``incoming`` is the direction written to it."""
    return READING | EPOLLOUT if incoming in (Half.HELD, Half.HELD_LAST) else READING


def finished(one: Half, other: Half) -> bool:
    """Whether both directions have ended, so that nothing is left to relay."""
    return one is Half.ENDED and other is Half.ENDED
