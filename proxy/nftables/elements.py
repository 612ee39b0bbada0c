"""What a frontend is in the kernel: the elements of our maps that make it work, and no others.

Why pure: a sync is the difference between two of these, and the test of every rule about them is a comparison.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from netplane.linux import nfnetlink
from proxy.model import Endpoint, Frontend, IPAddress, IPNetwork, NodeFacts, Pool, Target, WhenEmpty
from proxy.nftables.names import (
    PROTOCOLS,
    Chain,
    Kind,
    Learn,
    Pick,
    kinds,
    learners,
    slots,
    verdicts,
)

Element = tuple[str, bytes, bytes]  # a set's name, and the element's head and tail
SHARED = frozenset(f"{name}{version}" for name in ("addresses", "local", "hairpin") for version in (4, 6))


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
    return tuple(dict.fromkeys(endpoint_value(endpoint) for endpoint in pool.endpoints))


def endpoint_value(endpoint: Endpoint) -> bytes:
    """Address and port, each filled up to four bytes."""
    return endpoint.address.packed + endpoint.port.to_bytes(2, "big") + b"\0\0"


def frontend_key(frontend: Frontend) -> bytes:
    """What a frontend is looked up by: address (none for NodePorts), protocol, port."""
    rest = bytes((PROTOCOLS[frontend.protocol], 0, 0, 0)) + frontend.port.to_bytes(2, "big") + b"\0\0"
    return rest if frontend.address.is_unspecified else frontend.address.packed + rest


def elements(frontend: Frontend, placed: Placed, node: NodeFacts) -> Iterator[Element]:
    """All elements of one frontend. Those of ``SHARED`` sets may be other frontends' as well."""
    target, (kind, outside_kind) = placed.target, kinds(frontend)
    key, version = frontend_key(frontend), frontend.address.version
    yield from _pool(kind, version, key, placed.inside, target, target.inside)
    if placed.outside is not None:
        yield from _pool(outside_kind, version, key, placed.outside, target, target.outside)
    yield from _ranges(version, key, target)
    yield from _places(frontend, target, node)


def chains(frontend: Frontend, placed: Placed) -> Iterator[Chain]:
    """The chains that these elements lead to."""
    kind, outside_kind = kinds(frontend)
    version, affinity = frontend.address.version, placed.target.affinity
    for where, endpoints in ((kind, placed.inside), (outside_kind, placed.outside or ())):
        if endpoints:
            yield Pick(where, version, len(endpoints), affinity is not None)
            if affinity is not None:
                yield Learn(where, version, affinity)


def _pool(
    kind: Kind, version: int, key: bytes, endpoints: Sequence[bytes], target: Target, pool: Pool
) -> Iterator[Element]:
    affinity, service = target.affinity, str(target.service)
    if endpoints:
        chain = Pick(kind, version, len(endpoints), affinity is not None).name
    else:
        chain = "refuse" if pool.when_empty is WhenEmpty.REJECT else ""
    yield verdicts(kind, version), nfnetlink.head(key), nfnetlink.verdict(chain, service)
    name = slots(kind, version)
    for number, endpoint in enumerate(endpoints):
        yield name, nfnetlink.head(key + _index(number)), nfnetlink.tail(endpoint)
    if endpoints and affinity is not None:
        learner = Learn(kind, version, affinity).name
        yield learners(kind, version), nfnetlink.head(key), nfnetlink.verdict(learner)


@lru_cache(maxsize=8192)
def _index(number: int) -> bytes:
    """numgen's result is a number of the machine's own byte order."""
    import sys

    return number.to_bytes(4, sys.byteorder)


def _ranges(version: int, key: bytes, target: Target) -> Iterator[Element]:
    if not target.allowed:
        return
    yield f"ranged{version}", nfnetlink.head(key), b""
    for network in target.allowed:
        first, last = network.network_address.packed, network.broadcast_address.packed
        yield f"allowed{version}", nfnetlink.head(key + first, key + last), b""


def _places(frontend: Frontend, target: Target, node: NodeFacts) -> Iterator[Element]:
    """Which addresses are Services', and which endpoints are on this node."""
    address, version = frontend.address, frontend.address.version
    if is_single(address, node):
        yield f"addresses{version}", nfnetlink.head(address.packed), b""
    pools = (target.inside,) if target.inside is target.outside else (target.inside, target.outside)
    here = {e.address.packed for pool in pools for e in pool.endpoints if e.local or _within(e, node)}
    for place in here:
        yield f"local{version}", nfnetlink.head(place), b""
        yield f"hairpin{version}", nfnetlink.head(place + place), b""


def is_single(address: IPAddress, node: NodeFacts) -> bool:
    """Whether a Service's address is outside the Service networks and not the node's."""
    special = address.is_unspecified or address.is_loopback or address in node.addresses
    return not special and not any(_has(network, address) for network in node.service_cidrs)


def _within(endpoint: Endpoint, node: NodeFacts) -> bool:
    return any(_has(network, endpoint.address) for network in node.pod_cidrs)


def _has(network: IPNetwork, address: IPAddress) -> bool:
    """``address in network``, in a third of the time."""
    if network.version != address.version:
        return False
    return int(address) & int(network.netmask) == int(network.network_address)
