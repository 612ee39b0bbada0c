"""What the kernel's elements say: frontends and the endpoints that they lead to.

Why a public read side: `netplane services` and `netplane explain` read this table with no proxy running. The kernel
knows no readiness and no reason; what it does not say is left at its default. Blocking: call it from a thread.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network, summarize_address_range

from netplane.linux import nfnetlink
from netplane.linux.nfnetlink import Tables
from proxy.model import Endpoint, Frontend, IPNetwork, Pool, Protocol, ServicePort, Target, WhenEmpty
from proxy.nftables.names import (
    FAMILY,
    PROTOCOLS,
    SETS,
    TABLE,
    VERSIONS,
    Kind,
    insiders,
    learners,
    particular,
    slots,
    verdicts,
)
from proxy.nftables.state import Contents

_PROTOCOL = {number: Protocol(name) for name, number in PROTOCOLS.items()}
_EVERY = {4: ip_address("0.0.0.0"), 6: ip_address("::")}


def read() -> Contents:
    """All elements of ours that the kernel has; empty where there is no table. Raises KernelError."""
    found: Contents = {}
    with Tables() as tables:
        for name in SETS:
            listed = tables.elements(FAMILY, TABLE, name)
            if listed is None:
                return {}
            found[name] = listed
    return found


def count() -> int:
    """How many frontends that are. Raises KernelError."""
    with Tables() as tables:
        names = [verdicts(kind, version) for kind in (Kind.SERVICE, Kind.PORT) for version in VERSIONS]
        return sum(len(tables.elements(FAMILY, TABLE, name) or ()) for name in names)


def targets() -> dict[Frontend, Target]:
    """What the kernel forwards, as it says itself."""
    return decode(read())


def decode(contents: Contents) -> dict[Frontend, Target]:
    """Elements in words."""
    found: dict[Frontend, Target] = {}
    for version in VERSIONS if contents else ():
        local = {nfnetlink.key_of(head) for head in contents[f"local{version}"]}
        allowed = _allowed(contents, version)
        for kind, outside_kind in ((Kind.SERVICE, Kind.OUTSIDE), (Kind.PORT, Kind.OUTPORT)):
            inside = _pools(contents, kind, version, local)
            outside = _pools(contents, outside_kind, version, local)
            services = _services(contents, kind, version)
            stays = _stays(contents, kind, version) | _stays(contents, outside_kind, version)
            for key, pool in inside.items():
                target = Target(
                    services[key],
                    pool,
                    outside.get(key, pool),
                    stays.get(key),
                    keep_outside_address=key in outside,
                    allowed=tuple(allowed.get(key, ())),
                )
                found[frontend_of(key, version)] = target
    return found


def frontend_of(key: bytes, version: int) -> Frontend:
    """The frontend that is looked up by a key."""
    rest = key[-8:]
    address = ip_address(key[:-8]) if len(key) > 8 else _EVERY[version]
    return Frontend(address, int.from_bytes(rest[4:6], "big"), _PROTOCOL[rest[0]])


def _pools(contents: Contents, kind: Kind, version: int, local: set[bytes]) -> dict[bytes, Pool]:
    """Key → where it leads, for the clients of this kind."""
    placed: dict[bytes, list[Endpoint]] = defaultdict(list)
    for head, tail in contents[slots(kind, version)].items():
        placed[nfnetlink.key_of(head)[:-4]].append(_endpoint(nfnetlink.value_of(tail), local))
    found = {}
    for head, tail in contents[verdicts(kind, version)].items():
        key, chain = nfnetlink.key_of(head), nfnetlink.chain_of(tail)
        if chain == particular(kind, version):
            chain = nfnetlink.chain_of(contents[insiders(kind, version)].get(head, tail))
        endpoints = tuple(sorted(placed.get(key, ()), key=lambda endpoint: endpoint.order))
        found[key] = Pool(endpoints, WhenEmpty.REJECT if chain else WhenEmpty.DROP)
    return found


def _services(contents: Contents, kind: Kind, version: int) -> dict[bytes, ServicePort]:
    """Key → whose it is."""
    listed = contents[verdicts(kind, version)].items()
    return {nfnetlink.key_of(head): _service(nfnetlink.comment_of(tail)) for head, tail in listed}


def _stays(contents: Contents, kind: Kind, version: int) -> dict[bytes, int]:
    """Key → for how many seconds a client stays with its endpoint."""
    return {
        nfnetlink.key_of(head): int(nfnetlink.chain_of(tail).rpartition("-")[2])
        for head, tail in contents[learners(kind, version)].items()
    }


def _endpoint(value: bytes, local: set[bytes]) -> Endpoint:
    address, port = value[:-4], int.from_bytes(value[-4:-2], "big")
    return Endpoint(ip_address(address), port, local=address in local)


def _service(comment: str) -> ServicePort:
    namespace, _, rest = comment.partition("/")
    name, _, port = rest.partition(":")
    return ServicePort(namespace, name, port)


def _allowed(contents: Contents, version: int) -> Mapping[bytes, list[IPNetwork]]:
    found: dict[bytes, list[IPNetwork]] = defaultdict(list)
    size = 4 if version == 4 else 16
    for head in contents[f"allowed{version}"]:
        first, last = nfnetlink.key_of(head), nfnetlink.end_of(head)
        found[first[:-size]].extend(_networks(first[-size:], last[-size:]))
    return {key: sorted(networks, key=lambda n: (int(n[0]), n.prefixlen)) for key, networks in found.items()}


def _networks(first: bytes, last: bytes) -> Iterator[IPNetwork]:
    low, high = ip_address(first), ip_address(last)
    if low == high:
        yield ip_network(low)
    else:
        yield from summarize_address_range(low, high)  # both of one version
