"""What a frontend is in the kernel: the elements of our maps that make it work, and no others.

Why pure: a sync is the difference between two of these, and the test of every rule about them is a comparison.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from netplane.linux import nfnetlink
from proxy.model import Frontend, IPAddress, IPNetwork, NodeFacts, Pool, Target, WhenEmpty, collapsed
from proxy.nftables.identity import Numbers, remembered_as
from proxy.nftables.names import (
    PROTOCOLS,
    Chain,
    Kind,
    Learn,
    Pick,
    identities,
    insiders,
    kinds,
    learners,
    particular,
    slots,
    verdicts,
)

Element = tuple[str, bytes, bytes]  # a set's name, and the element's head and tail
PORT_KEY = 8  # bytes of a frontend's key without an address
_PROTOCOL = {protocol: bytes((number, 0, 0, 0)) for protocol, number in PROTOCOLS.items()}
SHARED = frozenset(f"{name}{version}" for name in ("local", "hairpin") for version in (4, 6))


@dataclass(frozen=True, slots=True)
class Placed:
    """A target, and the order in which its endpoints have their slots (packed, as in the kernel).

    ``outside`` None: clients from outside are served as all others.
    """

    target: Target
    inside: tuple[bytes, ...]
    outside: tuple[bytes, ...] | None


def place(target: Target, before: Placed | None) -> Placed:
    """Give endpoints their slots so that those which stay keep theirs, where that can be."""
    inside = arrange(before.inside if before else (), packed(target.inside))
    if target.inside == target.outside and not target.keep_outside_address:
        return Placed(target, inside, None)
    outside = arrange((before.outside if before else None) or (), packed(target.outside))
    return Placed(target, inside, outside)


def arrange(before: Sequence[bytes], wanted: Sequence[bytes]) -> tuple[bytes, ...]:
    """``wanted`` in an order that changes as few slots as possible."""
    if not before:
        return tuple(wanted)
    stay, room = set(wanted), before[: len(wanted)]
    keep = {endpoint for endpoint in room if endpoint in stay}
    others = iter([endpoint for endpoint in wanted if endpoint not in keep])
    return (*(slot if slot in keep else next(others) for slot in room), *others)


def packed(pool: Pool) -> tuple[bytes, ...]:
    """A pool's endpoints as values of our maps."""
    return tuple(dict.fromkeys([e.address.packed + _port(e.port) for e in pool.endpoints]))


def frontend_key(frontend: Frontend) -> bytes:
    """What a frontend is looked up by: address (none for NodePorts), protocol, port."""
    rest = _PROTOCOL[frontend.protocol] + _port(frontend.port)
    return frontend.address.packed + rest if int(frontend.address) else rest


class Elements:
    """The elements of frontends on one node."""

    def __init__(self, node: NodeFacts, numbers: Numbers) -> None:
        self._own = frozenset(node.addresses)
        self._services = _masks(node.service_cidrs)
        self._pods = _masks(node.pod_cidrs)
        self._numbers = numbers

    def of(self, frontend: Frontend, placed: Placed) -> Iterator[Element]:
        """All elements of one frontend. Those of ``SHARED`` sets may be other frontends' as well."""
        target, key, version = placed.target, frontend_key(frontend), frontend.address.version
        kind, outside_kind = (
            (Kind.PORT, Kind.OUTPORT) if len(key) == PORT_KEY else (Kind.SERVICE, Kind.OUTSIDE)
        )
        sticky, name = target.affinity is not None, str(target.service)
        inside = _way(kind, version, placed.inside, sticky, target.inside)
        if placed.outside is None and not target.allowed:
            yield verdicts(kind, version), nfnetlink.head(key), nfnetlink.verdict(inside, name)
        else:
            look_again = nfnetlink.verdict(particular(kind, version), name)
            yield verdicts(kind, version), nfnetlink.head(key), look_again
            yield insiders(kind, version), nfnetlink.head(key), nfnetlink.verdict(inside)
        yield from _slots(kind, version, key, placed.inside)
        if placed.outside is not None:
            outside = _way(outside_kind, version, placed.outside, sticky, target.outside)
            yield verdicts(outside_kind, version), nfnetlink.head(key), nfnetlink.verdict(outside)
            yield from _slots(outside_kind, version, key, placed.outside)
        if sticky:
            yield from self._sticking(frontend, placed)
        if target.allowed:
            yield from _ranges(version, key, target)
        yield from self._here(version, target)

    def _sticking(self, frontend: Frontend, placed: Placed) -> Iterator[Element]:
        """What remembers a client."""
        head, version = nfnetlink.head(frontend_key(frontend)), frontend.address.version
        for kind, endpoints in zip(kinds(frontend), (placed.inside, placed.outside), strict=True):
            if endpoints and placed.target.affinity is not None:
                learner = Learn(kind, version, placed.target.affinity).name
                yield learners(kind, version), head, nfnetlink.verdict(learner)
                number = self._numbers.of(remembered_as(frontend, placed.target, kind))
                yield identities(kind, version), head, nfnetlink.tail(number)

    def is_single(self, address: IPAddress) -> bool:
        """Whether a Service's address is outside the Service networks and not the node's."""
        if _among(address, self._services) or address in self._own:
            return False
        return not (address.is_loopback or address.is_unspecified)

    def _here(self, version: int, target: Target) -> Iterator[Element]:
        """Which endpoints are on this node."""
        pools = (target.inside,) if target.inside is target.outside else (target.inside, target.outside)
        pods = self._pods
        here = {e.address for pool in pools for e in pool.endpoints if e.local or _among(e.address, pods)}
        for address in here:
            yield f"local{version}", nfnetlink.head(address.packed), b""
            yield f"hairpin{version}", nfnetlink.head(address.packed * 2), b""


def chains(frontend: Frontend, placed: Placed) -> Iterator[Chain]:
    """The chains that these elements lead to."""
    version, affinity = frontend.address.version, placed.target.affinity
    for where, endpoints in zip(kinds(frontend), (placed.inside, placed.outside), strict=True):
        if endpoints:
            yield Pick(where, version, len(endpoints), affinity is not None)
            if affinity is not None:
                yield Learn(where, version, affinity)


def _way(kind: Kind, version: int, endpoints: Sequence[bytes], sticky: bool, pool: Pool) -> str:
    """The chain that serves these clients; "" for silence."""
    if endpoints:
        return _pick(kind, version, len(endpoints), sticky)
    return "refuse" if pool.when_empty is WhenEmpty.REJECT else ""


def _slots(kind: Kind, version: int, key: bytes, endpoints: Sequence[bytes]) -> Iterator[Element]:
    name, head, tail = slots(kind, version), nfnetlink.head, nfnetlink.tail
    for number, endpoint in enumerate(endpoints):
        yield name, head(key + _index(number)), tail(endpoint)


@lru_cache(maxsize=4096)
def _pick(kind: Kind, version: int, count: int, sticky: bool) -> str:
    return Pick(kind, version, count, sticky).name


@lru_cache(maxsize=8192)
def _index(number: int) -> bytes:
    """numgen's result is a number of the machine's own byte order."""
    return number.to_bytes(4, sys.byteorder)


@lru_cache(maxsize=1 << 16)
def _port(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\0\0"


def _ranges(version: int, key: bytes, target: Target) -> Iterator[Element]:
    """The kernel's sets of intervals take no overlaps: one would fail the transaction, and so all Services."""
    yield f"ranged{version}", nfnetlink.head(key), b""
    for network in collapsed(target.allowed):
        first, last = network.network_address.packed, network.broadcast_address.packed
        yield f"allowed{version}", nfnetlink.head(key + first, key + last), b""


def _masks(networks: Iterable[IPNetwork]) -> tuple[tuple[int, int, int], ...]:
    return tuple((n.version, int(n.netmask), int(n.network_address)) for n in networks)


def _among(address: IPAddress, masks: tuple[tuple[int, int, int], ...]) -> bool:
    """``address in network``, of any, in a third of the time."""
    number = int(address)
    for version, mask, first in masks:  # noqa: SIM110 - any() costs twice as much
        if number & mask == first and version == address.version:
            return True
    return False
