"""Under which number a client is remembered: one for a Service port, whichever of its frontends is called.

Why numbers: what hands the name on within the kernel is four bytes wide (``nfrules.note``), and a hash of four bytes
may be another name's, too. So numbers are given out, and those that the kernel has are kept by the next process. Pure.
"""

import sys
from collections.abc import Iterable
from hashlib import blake2b

from proxy.model import Frontend, Target
from proxy.nftables.names import Kind


class Numbers:
    """Name → number, packed as in the kernel."""

    def __init__(self) -> None:
        self._by_name: dict[str, int] = {}
        self._taken: set[int] = set()

    def of(self, name: str) -> bytes:
        """A number that no other name has, and that this one keeps. Never 0."""
        number = self._by_name.get(name)
        if number is None:
            number = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
            while not number or number in self._taken:
                number = (number + 1) & 0xFFFFFFFF
            self._set(name, number)
        return number.to_bytes(4, sys.byteorder)

    def adopt(self, known: Iterable[tuple[str, bytes]]) -> None:
        """Go on with numbers that were given out before; the first of two that contradict each other counts."""
        for name, packed in known:
            number = int.from_bytes(packed, sys.byteorder)
            if number and name not in self._by_name and number not in self._taken:
                self._set(name, number)

    def _set(self, name: str, number: int) -> None:
        self._by_name[name] = number
        self._taken.add(number)


def remembered_as(frontend: Frontend, target: Target, kind: Kind) -> str:
    """Whose client somebody is; apart where other endpoints may serve (policy Local)."""
    apart = "/apart" if target.apart else ""
    outside = "/outside" if kind in (Kind.OUTSIDE, Kind.OUTPORT) else ""
    return f"{target.service}/{frontend.protocol}{apart}{outside}"
