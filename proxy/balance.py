"""Which endpoint is next, and which one after it fails.

Why pure: the order in which endpoints are tried is a promise to users (round robin; a dead endpoint costs a
try, not a connection) that tests state without sockets.
"""

from collections.abc import Iterator, Sequence

from proxy.model import Endpoint


class RoundRobin:
    """Turns over one pool. The turn goes on when the pool changes, so a rollout does not favour its first."""

    __slots__ = ("_turn",)

    def __init__(self, turn: int = 0) -> None:
        self._turn = turn

    def next(self, endpoints: Sequence[Endpoint]) -> int:
        """The index of the next endpoint; raises IndexError where there is none."""
        if not endpoints:
            raise IndexError("no endpoints")
        turn = self._turn % len(endpoints)
        self._turn = turn + 1
        return turn


def attempts(endpoints: Sequence[Endpoint], first: int) -> Iterator[Endpoint]:
    """The endpoints in the order to try them, beginning at ``first`` and round again without end."""
    while endpoints:
        yield endpoints[first % len(endpoints)]
        first += 1
