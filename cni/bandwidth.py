"""How fast a pod may receive (ingress) and send (egress), as runtimes ask for it (capability bandwidth). Pure.

Rates are bits a second and bursts bits, as everywhere in CNI; a token bucket (tbf) has bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
# tbf counts in 32 bits: bytes a second, the bytes that wait (a burst and LATENCY's worth), and the burst as ticks of
# 64 ns, of which 274 s are too many. A burst is made smaller in silence: runtimes say "none" by a large one.
_FASTEST = (1 << 32) - 1
_LARGEST_BURST = _FASTEST - (1 << 27)
_LONGEST_BURST_SECONDS = 200
LATENCY_MS = 25


@dataclass(frozen=True, slots=True)
class Bucket:
    """One direction: bytes a second, and how many bytes may go at once."""

    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """None: that direction is free."""

    ingress: Bucket | None = None
    egress: Bucket | None = None

    def as_plain(self) -> dict[str, int]:
        """As a runtime would ask for it."""
        found: dict[str, int] = {}
        for name, bucket in (("ingress", self.ingress), ("egress", self.egress)):
            if bucket is not None:
                found |= {f"{name}Rate": bucket.rate * 8, f"{name}Burst": bucket.burst * 8}
        return found


def parse(entry: Mapping[str, Any]) -> Bandwidth | None:
    """None where it asks for nothing. Raises ValueError naming the field."""
    for key in _KEYS:
        value = entry.get(key) or 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{key} {value!r} is not a number of bits")
    found = Bandwidth(_bucket(entry, "ingress"), _bucket(entry, "egress"))
    return found if found != Bandwidth() else None


def _bucket(entry: Mapping[str, Any], name: str) -> Bucket | None:
    rate, burst = entry.get(f"{name}Rate") or 0, entry.get(f"{name}Burst") or 0
    if not rate and not burst:
        return None
    if rate < 8 or burst < 8:
        raise ValueError(f"{name}Rate {rate} and {name}Burst {burst} must both be at least 8 bits")
    if rate // 8 > _FASTEST:
        raise ValueError(
            f"{name}Rate {rate} is more than {_FASTEST * 8} bits a second, the fastest that can be limited"
        )
    return Bucket(rate // 8, min(burst // 8, _LARGEST_BURST, rate // 8 * _LONGEST_BURST_SECONDS))
