"""Which endpoint is next, and which one after it fails.

Why pure: the order in which endpoints are tried is a promise to users (round robin; a dead endpoint costs a
try, not a connection) that tests state without sockets.
"""

from collections.abc import Sequence

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


class Affinity:
    """Which endpoint each client of one Service port was last given (sessionAffinity ClientIP).

    Bounded: where too many clients came within the time, those that came longest ago are forgotten first.
    """

    __slots__ = ("_given", "_most")

    def __init__(self, most: int = 100_000) -> None:
        self._given: dict[str, tuple[Endpoint, float]] = {}
        self._most = most

    def find(self, client: str, endpoints: Sequence[Endpoint], now: float) -> int | None:
        """The index of the client's endpoint; None where it has none, or may not go there any more."""
        endpoint, until = self._given.get(client, (None, 0.0))
        if endpoint is None or now >= until:
            return None
        where = (endpoint.address, endpoint.port)
        return next((i for i, e in enumerate(endpoints) if (e.address, e.port) == where), None)

    def remember(self, client: str, endpoint: Endpoint, until: float) -> None:
        """The client was given this endpoint; good ``until`` (seconds of the caller's clock)."""
        self._given.pop(client, None)  # so that the order is that of the last visits
        self._given[client] = (endpoint, until)
        if len(self._given) > self._most:
            del self._given[next(iter(self._given))]
