"""Our nftables table as text: masquerade for what leaves the cluster, and hairpin.

`inet netplane_cni` is this room's alone. What differs from pod to pod is an element of a map or a set, so the
rules are the same few however many pods there are:

- ``leaving4-…``: pod addresses with the same exclusions, for the chain of that name, whose last word is masquerade;
- ``hairpin4``: (pod, pod): a pod that reaches itself through a Service would get the answer from its own
  address, and drop it; so a connection that was translated back to its sender leaves with the node's address;
- ``ports4`` and ``bound4``: a port of the node, or of one address of it → pod address and port. It leads there also
  from the node itself; from 127.0.0.1 the source becomes the node's, and the pod's link may carry that address
  (``route_localnet``), so what pods send to 127.0.0.0/8 is dropped before anything else sees it.

A pod's elements come in two forms. ``Element`` values change elements only: nothing in the kernel is replaced, and
so nothing waits for readers to let go (10 ms). Where the table or the set is not there, that fails as a whole, and
the script, which needs nothing to be there, takes its place. In scripts an element is deleted by adding it first:
kernels before 6.3 have no delete that tolerates its absence.

No element has a verdict: with one such in a transaction the kernel looks through all of its map (0.4 ms at 4000).
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cni.lease import Lease
from cni.ports import PROTOCOLS, PortMapping
from netplane.config import IPAddress, IPNetwork

FAMILY, TABLE = "inet", "netplane_cni"
_AT = f"{FAMILY} {TABLE}"
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_MATCH = {4: "ip", 6: "ip6"}

_NODE = {
    4: "fib daddr type local",
    6: "ip6 daddr != ::1 fib daddr type local",
}  # from ::1 nothing can be translated

_PORT = "inet_proto . inet_service"
_CHAINS = ("guard", "guard6", "prerouting", "output", "postrouting")

DECLARATIONS = "\n".join(
    [
        f"add table {_AT}",
        f"add chain {_AT} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}",
        *(f"add set {_AT} hairpin{v} {{ type {_TYPE[v]} . {_TYPE[v]}; }}" for v in (4, 6)),
        *(f"add map {_AT} ports{v} {{ type {_PORT} : {_TYPE[v]} . inet_service; }}" for v in (4, 6)),
        *(
            f"add map {_AT} bound{v} {{ type {_TYPE[v]} . {_PORT} : {_TYPE[v]} . inet_service; }}"
            for v in (4, 6)
        ),
        f"add chain {_AT} guard {{ type filter hook prerouting priority raw; policy accept; }}",
        f"add chain {_AT} guard6",
        f"add chain {_AT} prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}",
        f"add chain {_AT} output {{ type nat hook output priority -100; policy accept; }}",
    ]
)


def _rules() -> Iterator[str]:
    yield 'guard iifname "np*" ip daddr 127.0.0.0/8 drop'
    yield 'guard meta nfproto ipv6 iifname "np*" jump guard6'
    # A pod is neither the host's router nor redirects it. One rule instead of two settings of each link (accept_ra,
    # accept_redirects), which take a twentieth of an ADD.
    yield "guard6 icmpv6 type { nd-router-advert, nd-redirect } drop"
    # Nobody here listens to what pods send to all (neighbour discovery, MLD). Where the kernel kept its route for that
    # on each link (``plan.NoMulticastRoute``), it would look through all of them for each such packet.
    yield "guard6 ip6 daddr ff00::/8 drop"
    for chain in ("prerouting", "output"):
        for v, match in _MATCH.items():
            port = "meta l4proto . th dport map"
            yield f"{chain} dnat {match} to {match} daddr . {port} @bound{v}"
            yield f"{chain} {_NODE[v]} dnat {match} to {port} @ports{v}"
    yield "postrouting ip saddr 127.0.0.0/8 ct status dnat masquerade"
    for v, match in _MATCH.items():
        yield f"postrouting ct status dnat {match} saddr . {match} daddr @hairpin{v} masquerade"


_RULES = tuple(_rules())


def rebuild(leases: Iterable[Lease]) -> str:
    """The whole table as these leases want it, whatever was there: one transaction."""
    held = list(leases)
    exclusions = dict.fromkeys(lease.terms.exclude for lease in held if lease.terms.exclude is not None)
    elements = (_line("add", element) for lease in held for element in of_lease(lease))
    begin = [f"add table {_AT}", f"delete table {_AT}", _frame()]
    return "\n".join([*begin, *(_leaving(exclude) for exclude in exclusions), *elements])


Part = IPAddress | int | str  # an address, a port, a protocol


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set, or of a map: to ``value``."""

    name: str
    key: tuple[Part, ...]
    value: tuple[Part, ...] = ()


def packed(parts: tuple[Part, ...]) -> bytes:
    """As the kernel has it: each part in network order, filled up to four bytes."""
    return b"".join(_pack(part) for part in parts)


def _pack(part: Part) -> bytes:
    match part:
        case int():
            return part.to_bytes(2, "big") + b"\0\0"
        case str():
            return bytes([PROTOCOLS[part], 0, 0, 0])
        case _:
            return part.packed


def attach(lease: Lease) -> str:
    """The script that adds a pod's elements whatever is there."""
    return "\n".join([_frame(), _whole(lease)])


def detach(lease: Lease) -> str:
    """The script after which they are gone."""
    gone = [_line("delete", element) for element in of_lease(lease)]
    return "\n".join([DECLARATIONS, _whole(lease), *gone])


def _frame() -> str:
    """Declarations and the rules that never change."""
    rules = [f"add rule {_AT} {line}" for line in _RULES]
    return "\n".join([DECLARATIONS, *(f"flush chain {_AT} {chain}" for chain in _CHAINS), *rules])


def _whole(lease: Lease) -> str:
    """A pod's elements with the chain of exclusions they need."""
    exclude = lease.terms.exclude
    lines = [_line("add", element) for element in of_lease(lease)]
    return "\n".join([*([] if exclude is None else [_leaving(exclude)]), *lines])


def elements(lease: Lease) -> frozenset[tuple[str, str]]:
    """(map or set, key) of every element a pod must have: what CHECK looks for."""
    return frozenset((element.name, _named(element.key)) for element in of_lease(lease))


def observed(listing: Sequence[dict[str, object]]) -> frozenset[tuple[str, str]]:
    """(map or set, key) of every element the kernel has, from libnftables' JSON of the table."""
    found: set[tuple[str, str]] = set()
    for entry in listing:
        for kind in ("set", "map"):
            described = entry.get(kind)
            if isinstance(described, dict):
                found.update((str(described["name"]), _key(element)) for element in described.get("elem", []))
    return frozenset(found)


def has_rules(listing: Sequence[dict[str, object]]) -> bool:
    """Whether the rules that use the elements are there."""
    described = (entry.get("rule") for entry in listing)
    chains = [rule["chain"] for rule in described if isinstance(rule, dict)]
    wanted = [line.partition(" ")[0] for line in _RULES]
    return all(chains.count(chain) >= wanted.count(chain) for chain in _CHAINS)


def _key(element: object) -> str:
    """`addr`, `[addr, verdict]` (a map) or `{"concat": [addr, addr]}`."""
    if isinstance(element, list):
        return _key(element[0])
    if isinstance(element, dict):
        concatenated = element.get("concat")
        return _named(concatenated) if isinstance(concatenated, list) else str(element)
    return str(element)


def _named(parts: Sequence[object]) -> str:
    return " . ".join(str(part) for part in parts)


def of_lease(lease: Lease) -> Iterator[Element]:
    """A pod's elements."""
    exclude = lease.terms.exclude
    for address in lease.addresses:
        yield Element(f"hairpin{address.version}", (address, address))
        if exclude is not None:
            yield Element(f"leaving{address.version}-{_digest(exclude)}", (address,))
        for port in lease.terms.ports:
            if address.version in port.versions:
                yield _mapped(address, port)


def _mapped(address: IPAddress, port: PortMapping) -> Element:
    key, value = (port.protocol, port.host_port), (address, port.container_port)
    if port.host_ip is None:
        return Element(f"ports{address.version}", key, value=value)
    return Element(f"bound{address.version}", (port.host_ip, *key), value=value)


def _line(verb: str, element: Element) -> str:
    data = f" : {_named(element.value)}" if element.value else ""
    return f"{verb} element {_AT} {element.name} {{ {_named(element.key)}{data if verb == 'add' else ''} }}"


@lru_cache(maxsize=64)
def _leaving(exclude: tuple[IPNetwork, ...]) -> str:
    """A chain and its sets, named by the exclusions that are in it: their pods share it, and it never changes."""
    name = f"leaving-{_digest(exclude)}"
    chain = f"add chain {_AT} {name} {{ type nat hook postrouting priority srcnat; policy accept; }}"
    lines = [chain, f"flush chain {_AT} {name}"]
    for version, match in _MATCH.items():
        members = f"leaving{version}-{_digest(exclude)}"
        lines.append(f"add set {_AT} {members} {{ type {_TYPE[version]}; }}")
        lines.append(f"add rule {_AT} {name} {match} saddr != @{members} return")
        networks = [_MULTICAST[version], *(str(n) for n in exclude if n.version == version)]
        lines.extend(f"add rule {_AT} {name} {match} daddr {network} return" for network in networks)
    lines.append(f"add rule {_AT} {name} masquerade")
    return "\n".join(lines)


@lru_cache(maxsize=64)
def _digest(exclude: tuple[IPNetwork, ...]) -> str:
    return hashlib.sha256(",".join(str(n) for n in exclude).encode()).hexdigest()[:10]
