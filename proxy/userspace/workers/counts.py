"""Counters on their way from a worker to the proxy, and their sum over workers that came and went.

Why a base: a worker that was killed takes its counters with it, and a counter that falls is read as a restart by
everybody who watches it; so what it said last goes on to count.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.model import Protocol, ServicePort
from proxy.userspace.traffic import Traffic, TrafficKey

COUNTED = ("connections", "received", "sent", "retries", "rejected", "buckets", "connect_seconds")
Counts = dict[TrafficKey, Traffic]


def encode_traffic(counts: Mapping[TrafficKey, Traffic]) -> list[list[Any]]:
    """One entry for each key with any traffic: the key, then its counters."""
    return [
        [*encode_key(key), traffic.active, *(getattr(traffic, name) for name in COUNTED)]
        for key, traffic in counts.items()
        if traffic.used
    ]


def decode_traffic(entries: Iterable[list[Any]]) -> Counts:
    """What ``encode_traffic`` gave."""
    found: Counts = {}
    for entry in entries:
        traffic = found[decode_key(entry[:5])] = Traffic()
        traffic.active = entry[5]
        for name, value in zip(COUNTED, entry[6:], strict=True):
            setattr(traffic, name, value)
    return found


def encode_key(key: TrafficKey) -> list[str]:
    """Namespace, name, port, protocol and endpoint."""
    service = key.service
    return [service.namespace, service.name, service.port, key.protocol, key.endpoint]


def decode_key(entry: list[str]) -> TrafficKey:
    """What ``encode_key`` gave."""
    namespace, name, port, protocol, endpoint = entry
    return TrafficKey(ServicePort(namespace, name, port), Protocol(protocol), endpoint)


def add(total: Counts, more: Mapping[TrafficKey, Traffic], *, gone: bool = False) -> None:
    """Add counters to a sum. ``gone``: of a worker that is no more, so that nothing of it is active."""
    for key, traffic in more.items():
        total.setdefault(key, Traffic()).add(traffic)
        if gone:
            total[key].active = 0
