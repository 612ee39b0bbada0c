"""Which endpoint is next, and which one after it fails.

Why pure: the order in which endpoints are tried is a promise to users (round robin; a dead endpoint costs a
try, not a connection) that tests state without sockets.
"""

import random
from collections.abc import Iterable, Mapping, Sequence

from proxy.model import Balance, Endpoint

Where = tuple[str, int]  # an endpoint's address in text, and its port
FAILURES = 2  # connects in a row that fail before an endpoint is passed over
EJECT_SECONDS, EJECT_MOST = 2.0, 60.0  # for how long, doubled with each further failure
PROBE_SECONDS = 5.0  # while one client tries an endpoint again, others still pass it over
FLOOR = 0.5  # of a pool's endpoints may be passed over; with more, the fault is hardly theirs


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


def lightest(balance: Balance, load: Mapping[Where, int], where: Sequence[Where], turn: int) -> int:
    """The index of the endpoint to be tried first, by the number of open connections where that counts.

    ``turn`` is round robin's choice, which also breaks ties, so that equals take turns.
    """
    count = len(where)
    if balance is Balance.RANDOM:
        return random.randrange(count)
    if balance is Balance.P2C:
        pair = random.sample(range(count), 2) if count > 1 else [0]
        return min(pair, key=lambda index: load.get(where[index], 0))
    if balance is Balance.LEAST:
        return min(range(turn, turn + count), key=lambda index: load.get(where[index % count], 0)) % count
    return turn


class Ejections:
    """Endpoints that new connections pass over for a while, because connects to them failed.

    Nobody asks endpoints how they are: clients' own connects tell. One that is let in again is tried by one
    client first (who gets another endpoint if it fails), and stays away longer each time.
    """

    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed: dict[Where, tuple[int, float]] = {}

    def __bool__(self) -> bool:
        return bool(self.failed)

    def fail(self, where: Where, now: float) -> None:
        """A connect failed."""
        failures = self.failed.get(where, (0, 0.0))[0] + 1
        seconds = min(EJECT_MOST, EJECT_SECONDS * 2 ** min(failures - FAILURES, 10))
        self.failed[where] = (failures, now + seconds if failures >= FAILURES else 0.0)

    def succeed(self, where: Where) -> None:
        """A connect succeeded: all is forgiven."""
        self.failed.pop(where, None)

    def keep(self, wanted: Iterable[Where]) -> None:
        """Drop all but these: the others are no endpoints any more."""
        still = set(self.failed).intersection(wanted)
        self.failed = {where: self.failed[where] for where in still}

    def out(self, now: float) -> list[Where]:
        """Those that are passed over now."""
        return [where for where, (_, until) in self.failed.items() if now < until]

    def pass_over(self, where: Sequence[Where], first: int, now: float) -> int:
        """The first index from ``first`` on that is not ejected; ``first`` itself where too many are."""
        count = len(where)
        ejected = sum(now < self.failed.get(one, (0, 0.0))[1] for one in where)
        if not ejected and where[first] not in self.failed:
            return first
        if ejected > count * FLOOR:
            return first
        for step in range(count):
            index = (first + step) % count
            failures, until = self.failed.get(where[index], (0, 0.0))
            if now >= until:
                if until:  # let in again: this client finds out for the others
                    self.failed[where[index]] = (failures, now + PROBE_SECONDS)
                return index
        return first
