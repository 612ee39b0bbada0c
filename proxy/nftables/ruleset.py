"""The rules of our table as text: the frame, which depends on the node only, and the chains that choose.

Why pure: what keeps a pod from a node's own port, and whose address an endpoint sees, can be read here and tested
without a kernel. A script never deletes the table: translated connections live as long as its chains do.

A connection's first packet passes ``arrive``, from wherever it comes: it is looked up as a Service's address, then as a
NodePort. A frontend that is not the same for everybody (source ranges, policy Local) leads to ``particular``, which
looks it up again by whose client it is; no other pays for that. At a Service's address, what no Service has is left to
``guard``: only a socket of exactly that address (cluster DNS) may answer there.
Once translated it passes ``translate``, where the source becomes the node's unless the answer is sure to come back
through this node. All later packets follow the connection's entry in conntrack and see none of this: no base chain of
ours is in the way of what is forwarded but those of type nat.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from proxy.model import IPAddress, IPNetwork, NodeFacts, collapsed
from proxy.nftables.names import (
    BY_PORT,
    FAMILY,
    KEEPS,
    OURS,
    STICKY,
    TABLE,
    VERSIONS,
    Kind,
    clients,
    identities,
    insiders,
    learners,
    particular,
    slots,
    verdicts,
)

_AT = f"{FAMILY} {TABLE}"
_WORD = {4: "ip", 6: "ip6"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_LOOPBACK = {4: "127.0.0.0/8", 6: "::1"}
_PORT = "meta l4proto . th dport"
_HOOKS = {
    "prerouting": "type nat hook prerouting priority dstnat; policy accept;",
    "output": "type nat hook output priority -100; policy accept;",
    "input": "type nat hook input priority 100; policy accept;",
    "postrouting": "type nat hook postrouting priority srcnat; policy accept;",
    "guard": "type filter hook input priority filter; policy accept;",
}
_CHAINS = (
    *("identity", "refuse", *_HOOKS),
    *(f"{name}{v}" for v in VERSIONS for name in ("arrive", "translate", "unusual", "learn")),
    *(particular(kind, v) for v in VERSIONS for kind in (Kind.SERVICE, Kind.PORT)),
)
MOST_CLIENTS = 262_144  # of sticky Services, by IP version; beyond it, new clients do not stick


def declare() -> str:
    """The table, its maps and its chains, all of which may be there already. Nothing is served by it yet."""
    lines = [f"add table {_AT}", *(f"add {declaration}" for declaration in declarations())]
    lines += [f"add chain {_AT} {name} {{ {hook} }}" for name, hook in _HOOKS.items()]
    lines += [f"add chain {_AT} {name}" for name in _CHAINS if name not in _HOOKS]
    return "\n".join(lines)


def frame(node: NodeFacts) -> str:
    """The rules common to all Services, in the place of those that are there: one transaction.

    Load it when the maps are full: what they lack is refused.
    """
    rules = [*_refusal(node), *_hooks(), *(rule for v in VERSIONS for rule in _of_version(node, v))]
    lines = [f"flush chain {_AT} {name}" for name in _CHAINS]
    lines += [f"add rule {_AT} {rule}" for rule in rules]
    return "\n".join(lines)


def declarations() -> Iterator[str]:
    """The maps and sets there are."""
    for v in VERSIONS:
        address = _TYPE[v]
        for kind in Kind:
            key = "inet_proto . inet_service" if kind.by_port else f"{address} . inet_proto . inet_service"
            yield f"map {_AT} {verdicts(kind, v)} {{ type {key} : verdict; }}"
            yield f"map {_AT} {slots(kind, v)} {{ type {key} . mark : {address} . inet_service; }}"
            yield f"map {_AT} {identities(kind, v)} {{ type {key} : classid; }}"
            yield f"map {_AT} {learners(kind, v)} {{ type {key} : verdict; }}"
            if kind in (Kind.SERVICE, Kind.PORT):
                yield f"map {_AT} {insiders(kind, v)} {{ type {key} : verdict; }}"
        learnt = f"type classid . {address} : {address} . inet_service; flags dynamic,timeout"
        yield f"map {_AT} {clients(v)} {{ {learnt}; size {MOST_CLIENTS}; timeout 3h; }}"
        yield f"set {_AT} addresses{v} {{ type {address}; }}"
        yield f"set {_AT} local{v} {{ type {address}; }}"
        yield f"set {_AT} hairpin{v} {{ type {address} . {address}; }}"
        yield f"set {_AT} ranged{v} {{ type {address} . inet_proto . inet_service; }}"
        yield f"set {_AT} allowed{v} {{ type {address} . inet_proto . inet_service . {address}; flags interval; }}"


def _key(kind: Kind, version: int) -> str:
    return _PORT if kind.by_port else f"{_WORD[version]} daddr . {_PORT}"


def _refusal(node: NodeFacts) -> Iterator[str]:
    """A datagram that is refused on its way out is an error of its sender's (EPERM); one that arrives is answered.

    So what this node sends to a Service's address goes on, as that address is the node's own, and meets nobody there.
    """
    for version in VERSIONS:
        networks = _listed(node.service_cidrs, version)
        for whose in filter(None, (networks, f"@addresses{version}")):
            yield f"refuse oif lo {_WORD[version]} daddr {whose} return"
    yield "refuse meta l4proto tcp reject with tcp reset"
    yield "refuse reject"


def _hooks() -> Iterator[str]:
    for chain in ("prerouting", "output"):
        # A TCP packet without a connection that is not its beginning belongs to a socket of this node, or to nobody.
        yield f"{chain} meta l4proto tcp tcp flags & (fin|syn|rst|ack) != syn return"
        for v in VERSIONS:
            if (
                chain == "output"
            ):  # what comes from loopback could not reach an endpoint: nobody is told so at once
                yield f"{chain} {_WORD[v]} saddr {_LOOPBACK[v]} return"
            yield f"{chain} meta nfproto ipv{v} goto arrive{v}"
    for chain in ("input", "postrouting"):
        yield f"{chain} meta mark & {OURS:#x} == 0 return"
        for v in VERSIONS:
            yield f"{chain} meta nfproto ipv{v} goto translate{v}"


def _of_version(node: NodeFacts, version: int) -> Iterator[str]:
    pods = [*node.cluster_cidrs, *node.pod_cidrs]
    inside = _listed([*pods, *_single(node.addresses)], version)
    yield from (f"arrive{version} {rule}" for rule in _arriving(node, version))
    for kind in (Kind.SERVICE, Kind.PORT):
        yield from (f"{particular(kind, version)} {rule}" for rule in _by_client(kind, version, inside))
    yield from (f"guard {rule}" for rule in _guarding(node, version))
    yield from (f"learn{version} {rule}" for rule in _sticking(version))
    if node.address(version) is not None:
        yield from (f"unusual{version} {rule}" for rule in _unusual(version))
        yield from (f"translate{version} {rule}" for rule in _translating(node, version, inside))


def _guarding(node: NodeFacts, version: int) -> Iterator[str]:
    """What no Service has at its address is for a socket of exactly that address (cluster DNS), else for nobody."""
    word = _WORD[version]
    networks = _listed(node.service_cidrs, version)
    for whose in filter(None, (networks, f"@addresses{version}")):
        yield f"{word} daddr {whose} meta l4proto {{ tcp, udp }} socket wildcard 1 goto refuse"


def _arriving(node: NodeFacts, version: int) -> Iterator[str]:
    word = _WORD[version]
    yield f"{_key(Kind.SERVICE, version)} vmap @{verdicts(Kind.SERVICE, version)}"
    if networks := _listed(node.service_cidrs, version):
        yield f"{word} daddr {networks} return"
    yield f"{word} daddr @addresses{version} return"
    yield f"{word} daddr {_LOOPBACK[version]} return"
    if node.node_port_networks:
        chosen = _listed(node.node_port_networks, version)
        yield f"{word} daddr != {chosen} return" if chosen else "return"
    yield "fib daddr type != local return"
    yield f"{_key(Kind.PORT, version)} vmap @{verdicts(Kind.PORT, version)}"


def _by_client(kind: Kind, version: int, inside: str) -> Iterator[str]:
    """``inside``: the cluster's own addresses, "" for none. This node is always inside, at whatever address."""
    word, key = _WORD[version], _key(kind, version)
    if not kind.by_port:
        yield f"{key} @ranged{version} {key} . {word} saddr != @allowed{version} drop"
    stranger = f"{word} saddr != {inside} fib saddr type != local" if inside else "fib saddr type != local"
    outside = Kind.OUTPORT if kind.by_port else Kind.OUTSIDE
    yield f"{stranger} {key} vmap @{verdicts(outside, version)}"
    yield f"{key} vmap @{insiders(kind, version)}"


def _translating(node: NodeFacts, version: int, inside: str) -> Iterator[str]:
    """Whose address the endpoint sees: the client's wherever the answer comes back through this node."""
    word, own = _WORD[version], _listed(_single(node.addresses), version)
    # Not masquerade: that takes the address of the link, which may be one that only this machine knows.
    to_node = f"snat {word} to {node.address(version)} fully-random"
    yield f"meta mark & {STICKY | KEEPS:#x} != 0 jump unusual{version}"
    yield f"{word} saddr {own} return"
    yield f"{word} saddr . {word} daddr @hairpin{version} {to_node}"
    if pods := _listed([*node.cluster_cidrs, *node.pod_cidrs], version):
        yield f"{word} daddr != {pods} {to_node}"
        if mine := _listed(node.pod_cidrs, version):
            yield f"{word} saddr {mine} return"
        yield f"{word} saddr {inside} {word} daddr @local{version} return"
    yield to_node


def _unusual(version: int) -> Iterator[str]:
    yield f"meta mark & {STICKY:#x} != 0 jump learn{version}"
    yield f"meta mark & {KEEPS:#x} != 0 accept"


def _sticking(version: int) -> Iterator[str]:
    """To the chain that remembers this client for as long as its Service says."""
    address = f"ct original {_WORD[version]} daddr . "
    for kind in Kind:
        of_kind = f"meta mark & {OURS | BY_PORT | KEEPS:#x} == {kind.mark:#x}"
        for protocol in ("tcp", "udp", "sctp"):
            key = f"{'' if kind.by_port else address}meta l4proto . ct original proto-dst"
            yield f"{of_kind} meta l4proto {protocol} {key} vmap @{learners(kind, version)}"


def _listed(networks: Iterable[IPNetwork], version: int) -> str:
    """As an anonymous set, or the only one there is: to compare costs a tenth of a look-up. "" for none.

    nft's sets take no overlaps.
    """
    found = collapsed(network for network in networks if network.version == version)
    if len(found) == 1:
        return str(found[0])
    return f"{{ {', '.join(map(str, found))} }}" if found else ""


def _single(addresses: Iterable[IPAddress]) -> Iterator[IPNetwork]:
    for address in addresses:
        yield IPv4Network(address) if address.version == 4 else IPv6Network(address)
