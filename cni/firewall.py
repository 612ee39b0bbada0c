"""Our nftables table as text: masquerade for what leaves the cluster, and hairpin.

`inet netplane_cni` is this room's alone. What differs from pod to pod is an element of a map or a set, so the
rules are the same few however many pods there are:

- ``outside4``: pod address → the chain of its exclusions, whose last word is masquerade;
- ``hairpin4``: (pod, pod): a pod that reaches itself through a Service would get the answer from its own
  address, and drop it; so a connection that was translated back to its sender leaves with the node's address.

A pod's elements come in two forms. ``Element`` values change elements only: nothing in the kernel is replaced, and
so nothing waits for readers to let go (10 ms). Where the table or the chain is not there, that fails as a whole, and
the script, which needs nothing to be there, takes its place. In scripts an element is deleted by adding it first:
kernels before 6.3 have no delete that tolerates its absence.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cni.lease import Lease
from netplane.config import IPAddress, IPNetwork

FAMILY, TABLE = "inet", "netplane_cni"
_AT = f"{FAMILY} {TABLE}"
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_MATCH = {4: "ip", 6: "ip6"}

DECLARATIONS = "\n".join(
    [
        f"add table {_AT}",
        f"add chain {_AT} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}",
        *(f"add map {_AT} outside{v} {{ type {_TYPE[v]} : verdict; }}" for v in (4, 6)),
        *(f"add set {_AT} hairpin{v} {{ type {_TYPE[v]} . {_TYPE[v]}; }}" for v in (4, 6)),
    ]
)


def rebuild(leases: Iterable[Lease]) -> str:
    """The whole table as these leases want it, whatever was there: one transaction."""
    flushes = [f"flush map {_AT} outside{v}\nflush set {_AT} hairpin{v}" for v in (4, 6)]
    return "\n".join([_frame(), *flushes, *(_whole(lease) for lease in leases)])


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set (``chain`` empty) or of a map that jumps to ``chain``. ``key``: joined addresses."""

    name: str
    key: tuple[IPAddress, ...]
    chain: str = ""

    @property
    def packed(self) -> bytes:
        """The key as the kernel has it."""
        return b"".join(address.packed for address in self.key)


def attach(lease: Lease) -> tuple[tuple[Element, ...], str]:
    """A pod's elements, and the script that adds them whatever is there."""
    return tuple(_elements(lease)), "\n".join([_frame(), _whole(lease)])


def detach(lease: Lease) -> tuple[tuple[Element, ...], str]:
    """The same elements, and the script after which they are gone."""
    gone = [_line("delete", element) for element in _elements(lease)]
    return tuple(_elements(lease)), "\n".join([DECLARATIONS, _whole(lease), *gone])


def _frame() -> str:
    """Declarations and the rules that never change."""
    rules = [
        rule
        for v, match in _MATCH.items()
        for rule in (
            f"add rule {_AT} postrouting ct status dnat {match} saddr . {match} daddr @hairpin{v} masquerade",
            f"add rule {_AT} postrouting {match} saddr vmap @outside{v}",
        )
    ]
    return "\n".join([DECLARATIONS, f"flush chain {_AT} postrouting", *rules])


def _whole(lease: Lease) -> str:
    """A pod's elements with the chain of exclusions they need."""
    exclude = lease.terms.exclude
    lines = [_line("add", element) for element in _elements(lease)]
    return "\n".join([*([] if exclude is None else [_exclusions(exclude)]), *lines])


def elements(lease: Lease) -> frozenset[tuple[str, str]]:
    """(map or set, key) of every element a pod must have: what CHECK looks for."""
    return frozenset((element.name, str(element.key[0])) for element in _elements(lease))


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
    return chains.count("postrouting") >= 2 * len(_MATCH)


def _key(element: object) -> str:
    """`addr`, `[addr, verdict]` (a map) or `{"concat": [addr, addr]}` (the hairpin set)."""
    if isinstance(element, list):
        return _key(element[0])
    if isinstance(element, dict):
        concatenated = element.get("concat")
        return str(concatenated[0]) if isinstance(concatenated, list) else str(element)
    return str(element)


def _elements(lease: Lease) -> Iterator[Element]:
    exclude = lease.terms.exclude
    for address in lease.addresses:
        yield Element(f"hairpin{address.version}", (address, address))
        if exclude is not None:
            yield Element(f"outside{address.version}", (address,), _chain(exclude))


def _line(verb: str, element: Element) -> str:
    key = " . ".join(str(address) for address in element.key)
    verdict = f" : jump {element.chain}" if element.chain and verb == "add" else ""
    return f"{verb} element {_AT} {element.name} {{ {key}{verdict} }}"


def _exclusions(exclude: tuple[IPNetwork, ...]) -> str:
    """A chain named by what is in it: pods with the same exclusions share it, and it never changes."""
    name = _chain(exclude)
    lines = [f"add chain {_AT} {name}", f"flush chain {_AT} {name}"]
    for version, match in _MATCH.items():
        networks = [_MULTICAST[version], *(str(n) for n in exclude if n.version == version)]
        lines.extend(f"add rule {_AT} {name} {match} daddr {network} return" for network in networks)
    lines.append(f"add rule {_AT} {name} masquerade")
    return "\n".join(lines)


@lru_cache(maxsize=64)
def _chain(exclude: tuple[IPNetwork, ...]) -> str:
    digest = hashlib.sha256(",".join(str(n) for n in exclude).encode()).hexdigest()[:10]
    return f"outside-{digest}"
