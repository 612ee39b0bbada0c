"""What is counted for one Service port, or for one endpoint of it: plain integers, touched for every message.

Why not prometheus objects: those lock and look up labels on each increment, at several times the price of
the relay's own work. A collector reads these numbers when somebody asks (``proxy.metrics``).
Why a flow points to its counters: whether they are its Service's or its endpoint's is decided when it is given to
an endpoint, so that counting costs the same either way. Sums over endpoints are made by whoever reads.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from proxy.model import Endpoint, Frontend, Protocol, ServicePort, Target

# From a local endpoint's tens of microseconds up to the connect deadline.
CONNECT_BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)
# Timing a connection costs two system calls more, so one in this many is timed, beginning with the first.
TIMED_ONE_IN: Final = 8


class TrafficKey(NamedTuple):
    """Whose counters they are. ``endpoint``: "" for the Service port as a whole, or for what concerns no endpoint."""

    service: ServicePort
    protocol: Protocol
    endpoint: str = ""


class Traffic:
    """The counters of one ``TrafficKey``. Bytes: ``received`` from clients, ``sent`` to them."""

    __slots__ = (
        "active",
        "buckets",
        "connect_seconds",
        "connections",
        "received",
        "rejected",
        "retries",
        "sent",
    )

    def __init__(self) -> None:
        self.connections = 0
        self.active = 0
        self.received = 0
        self.sent = 0
        self.retries = 0
        self.rejected: dict[str, int] = {}
        self.buckets = [0] * (len(CONNECT_BUCKETS) + 1)
        self.connect_seconds = 0.0

    @property
    def used(self) -> bool:
        """Whether anything was ever counted."""
        counted = self.connections or self.active or self.received or self.sent or self.retries
        return bool(counted or self.rejected or self.connect_seconds)

    def add(self, other: "Traffic") -> None:
        """Count all that another has counted."""
        for name in ("connections", "active", "received", "sent", "retries", "connect_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count
        self.buckets = [one + more for one, more in zip(self.buckets, other.buckets, strict=True)]

    def reject(self, reason: str) -> None:
        """Count a client turned away."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def connected(self, seconds: float) -> None:
        """Count one timed connect."""
        self.buckets[bisect_left(CONNECT_BUCKETS, seconds)] += 1
        self.connect_seconds += seconds


class Accounts:
    """All counters of one process. ``by_endpoint``: each endpoint of a Service port has its own."""

    def __init__(self, *, by_endpoint: bool = False) -> None:
        self.by_endpoint = by_endpoint
        self.traffic: dict[TrafficKey, Traffic] = {}
        self._ended: set[TrafficKey] = set()

    def open(self, service: ServicePort, protocol: Protocol, endpoint: Endpoint | None = None) -> Traffic:
        """The counters of a Service port, or of its endpoint."""
        key = TrafficKey(service, protocol, "" if endpoint is None else str(endpoint))
        self._ended.discard(key)
        return self.traffic.setdefault(key, Traffic())

    def end(self, ended: Iterable[TrafficKey]) -> list[TrafficKey]:
        """Forget counters once the last flow of each has ended; those that are forgotten now."""
        self._ended.update(ended)
        over = [key for key in self._ended if key not in self.traffic or not self.traffic[key].active]
        for key in over:
            self._ended.discard(key)
            self.traffic.pop(key, None)
        return over


def keys_of(frontend: Frontend, target: Target) -> Iterator[TrafficKey]:
    """By what the clients of a frontend may be counted: its Service port, and each endpoint."""
    yield TrafficKey(target.service, frontend.protocol)
    for endpoint in chain(target.inside.endpoints, target.outside.endpoints):
        yield TrafficKey(target.service, frontend.protocol, str(endpoint))
