"""Which address comes next: a pure choice, so that a thousand orders of ADD, DEL and crash can be tried on it.

Laws: never an address in use; never the network, the broadcast or the gateway address; after the last one given
and around, so that an address rests as long as it can before it is given again.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from cni.errors import CniError, Code
from netplane.config import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses from ``first`` to ``last`` of ``subnet``, both usable, less ``gateway``."""

    subnet: IPNetwork
    first: IPAddress
    last: IPAddress
    gateway: IPAddress | None

    @classmethod
    def of(
        cls,
        subnet: IPNetwork,
        *,
        first: IPAddress | None = None,
        last: IPAddress | None = None,
        gateway: IPAddress | None = None,
    ) -> "Range":
        """The usable addresses of a subnet. Of two addresses or fewer, all are; else the first is the gateway.

        Raises ValueError where an end is outside the subnet or the ends are in the wrong order.
        """
        whole = subnet.num_addresses <= 2
        lowest = subnet[0] if whole else subnet[1]
        highest = subnet[-1] if whole or subnet.version == 6 else subnet[-2]
        for name, end in (("rangeStart", first), ("rangeEnd", last), ("gateway", gateway)):
            if end is not None and end not in subnet:
                raise ValueError(f"{name} {end} is not in {subnet}")
        start, stop = max(int(first or lowest), int(lowest)), min(int(last or highest), int(highest))
        if start > stop:
            raise ValueError(f"rangeStart {first or lowest} is after rangeEnd {last or highest}")
        kept = gateway if gateway is not None else (None if whole else lowest)
        return cls(subnet, _address(start, subnet), _address(stop, subnet), kept)

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, type(self.first)):
            return False
        return int(self.first) <= int(address) <= int(self.last) and address != self.gateway

    def __str__(self) -> str:
        return str(self.subnet)


@dataclass(frozen=True, slots=True)
class Pool:
    """Ranges of one family that give a pod one address together."""

    ranges: tuple[Range, ...]
    key: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """``key`` is what the last address given is remembered by: a different range starts anew."""
        key = ",".join(f"{r.subnet}[{r.first}-{r.last}]" for r in self.ranges)
        object.__setattr__(self, "key", key)

    def __str__(self) -> str:
        return ", ".join(f"{r} ({r.first} to {r.last})" for r in self.ranges)

    def __contains__(self, address: object) -> bool:
        return any(address in r for r in self.ranges)


def choose(pool: Pool, in_use: Container[IPAddress], last: IPAddress | None) -> IPAddress:
    """The next free address of ``pool`` after ``last``. Raises CniError EXHAUSTED naming the ranges."""
    for address in candidates(pool, last):
        if address not in in_use:
            return address
    raise CniError(
        Code.EXHAUSTED,
        f"cannot give an address: every address of {pool} is in use",
        "Delete pods on this node, give it a larger pod CIDR, or run `netplane cni gc` to free what is stale",
    )


def candidates(pool: Pool, last: IPAddress | None) -> Iterator[IPAddress]:
    """Every address of ``pool`` once, beginning after ``last`` (or at the first range)."""
    start = next((i for i, r in enumerate(pool.ranges) if last is not None and _within(last, r)), None)
    if start is None or last is None:
        for r in pool.ranges:
            yield from _span(r, int(r.first), int(r.last))
        return
    current = pool.ranges[start]
    yield from _span(current, int(last) + 1, int(current.last))
    for r in (*pool.ranges[start + 1 :], *pool.ranges[:start]):
        yield from _span(r, int(r.first), int(r.last))
    yield from _span(current, int(current.first), int(last))


def _within(address: IPAddress, r: Range) -> bool:
    return address.version == r.subnet.version and int(r.first) <= int(address) <= int(r.last)


def _span(r: Range, start: int, stop: int) -> Iterator[IPAddress]:
    for number in range(start, stop + 1):
        address = _address(number, r.subnet)
        if address != r.gateway:
            yield address


def _address(number: int, subnet: IPNetwork) -> IPAddress:
    # A small integer would be read as IPv4: the family is the subnet's.
    return subnet[number - int(subnet.network_address)] if subnet.version == 6 else ip_address(number)
