"""What is counted for one Service port: plain integers, because they are touched for every message.

Why not prometheus objects: those lock and look up labels on each increment, at several times the price of
the relay's own work. A collector reads these numbers when somebody asks (``proxy.metrics``).
"""

from bisect import bisect_left
from typing import Final

from proxy.model import Protocol, ServicePort

TrafficKey = tuple[ServicePort, Protocol]

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


class Traffic:
    """The counters of one Service port and protocol. Bytes: ``received`` from clients, ``sent`` to them."""

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
        return bool(self.connections or self.active or self.received or self.sent or self.rejected)

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
