"""What goes from pod to pod as it is needs no connection tracking: an nft table of our own that says so.

Why: the table that serves clients outside makes the kernel track every packet of the node, a third of what it adds to a
request, and what sockets were told to do is not translated any more. Only connections that somebody does translate
(for a client outside the node's cgroup, for a hostPort, or begun before ebpf mode) must be tracked still, in both
directions. Their clients are kept in a set, by address and port as both sides say them (a source port may be
translated as well), for as long as conntrack keeps such a connection; those of before are put there first.
"""

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from netplane.linux import nft
from proxy.model import IPAddress, IPNetwork, NodeFacts

FAMILY, TABLE = "inet", "netplane_ebpf"
IDLE = "5d"  # net.netfilter.nf_conntrack_tcp_timeout_established
BRIEF = "3m"  # more than conntrack keeps UDP, or TCP that ends
MOST = 65_536  # clients whose connections are translated
_AT = f"{FAMILY} {TABLE}"
_WORD = {4: "ip", 6: "ip6"}
_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_IPS_NAT = 1 << 4 | 1 << 5  # IPS_SRC_NAT, IPS_DST_NAT, linux/netfilter/nf_conntrack_common.h
_WAYS = (
    ("daddr", "dport"),
    ("saddr", "sport"),
)  # to a client, and from one: half a connection would be invalid

Client = tuple[IPAddress, int, int, int]  # address, IPPROTO_*, port, seconds


def ensure(node: NodeFacts) -> list[str]:
    """Make it so; what was changed, in words. Raises KernelError.

    Blocking: call it from a thread in the node's network namespace.
    """
    script = ruleset(node)
    there = nft.listing(FAMILY, TABLE)
    if there is None:
        nft.apply(watching(node))
        nft.apply(seeds(translated_clients(node)))
    elif any(entry.get("rule", {}).get("comment") == marker(script) for entry in there):
        return []
    nft.apply(script)
    return [f"nft table {_AT}"]


def remove() -> None:
    """Track everything again."""
    nft.delete_table(FAMILY, TABLE)


def ruleset(node: NodeFacts) -> str:
    """All of it, with its own mark."""
    script = "\n".join([watching(node), *untracking(node)])
    mark = hashlib.sha256(script.encode()).hexdigest()[:16]
    return f'{script}\nadd rule {_AT} identity counter comment "{mark}"'


def marker(script: str) -> str:
    """What a ruleset says of itself in the kernel."""
    return script.rpartition('comment "')[2].partition('"')[0]


def watching(node: NodeFacts) -> str:
    """The set of translated connections' clients and the rules that keep it; what the set has, stays."""
    lines = [f"add table {_AT}"]
    for v, kind in _TYPE.items():
        of = f"type {kind} . inet_proto . inet_service; flags dynamic,timeout; timeout {IDLE}; size {MOST};"
        lines.append(f"add set {_AT} clients{v} {{ {of} }}")
    # After every translation, when what the answer will be addressed to is known.
    lines.append(f"add chain {_AT} leaving {{ type filter hook postrouting priority 150; policy accept; }}")
    lines.append(f"add chain {_AT} arriving {{ type filter hook prerouting priority raw; policy accept; }}")
    chains = ["leaving", "arriving", "identity", *(f"{name}{v}" for name in ("keep", "brief") for v in _TYPE)]
    lines += [f"add chain {_AT} {chain}" for chain in chains[2:]]
    lines += [f"flush chain {_AT} {chain}" for chain in chains]
    for v, word in _WORD.items():
        if pods := _pods(node, v):
            translated = f"ct status snat,dnat ct original {word} saddr {pods}"
            lines.append(f"add rule {_AT} leaving ct direction original {translated} goto keep{v}")
        lines.append(f"add rule {_AT} keep{v} tcp flags & (fin | rst) != 0 goto brief{v}")
        lines += [
            f"add rule {_AT} keep{v} {rule}" for rule in (*_updates(v, "tcp"), *_updates(v, "udp", BRIEF))
        ]
        lines += [f"add rule {_AT} brief{v} {rule}" for rule in _updates(v, "tcp", BRIEF)]
    return "\n".join(lines)


def _updates(version: int, protocol: str, seconds: str = "") -> Iterator[str]:
    """Keep the client, as it says itself and as the answer will say it. The protocol comes first: ports have one."""
    word, timeout = _WORD[version], f" timeout {seconds}" if seconds else ""
    for end in (
        f"ct original {word} saddr . meta l4proto . ct original proto-src",
        f"ct reply {word} daddr . meta l4proto . ct reply proto-dst",
    ):
        yield f"meta l4proto {protocol} update @clients{version} {{ {end}{timeout} }}"


def untracking(node: NodeFacts) -> Iterator[str]:
    """The rules that leave pod-to-pod packets untracked, but for the answers of translated connections."""
    for v, word in _WORD.items():
        if pods := _pods(node, v):
            between = f"{word} saddr {pods} {word} daddr {pods} meta l4proto {{ tcp, udp }}"
            ways = [f"{word} {way} . meta l4proto . th {port} != @clients{v}" for way, port in _WAYS]
            yield f"add rule {_AT} arriving {between} {' '.join(ways)} notrack"


def seeds(clients: Iterable[Client]) -> str:
    """The script that puts clients into the sets."""
    lines = []
    for address, protocol, port, seconds in clients:
        element = f"{address} . {protocol} . {port} timeout {seconds}s"
        lines.append(f"add element {_AT} clients{address.version} {{ {element} }}")
    return "\n".join(dict.fromkeys(lines))


def translated_clients(node: NodeFacts) -> Iterator[Client]:
    """The pods' ends of connections that conntrack translates now, as both directions say them."""
    pods = [*node.cluster_cidrs, *node.pod_cidrs]
    with NFCTSocket() as conntrack:
        for entry in conntrack.dump():
            if not (entry.get_attr("CTA_STATUS") or 0) & _IPS_NAT:
                continue
            seconds = int(entry.get_attr("CTA_TIMEOUT") or 0) + 1
            for tuple_name, way in (("CTA_TUPLE_ORIG", "SRC"), ("CTA_TUPLE_REPLY", "DST")):
                ends, ports = (
                    entry.get_attr(tuple_name).get_attr(f"CTA_TUPLE_{part}") for part in ("IP", "PROTO")
                )
                address = ip_address(ends.get_attr(f"CTA_IP_V4_{way}") or ends.get_attr(f"CTA_IP_V6_{way}"))
                port = ports.get_attr(f"CTA_PROTO_{way}_PORT")
                if port and any(address in network for network in pods if network.version == address.version):
                    yield address, ports.get_attr("CTA_PROTO_NUM"), port, seconds


def _pods(node: NodeFacts, version: int) -> str:
    mine: list[IPNetwork] = [n for n in (*node.cluster_cidrs, *node.pod_cidrs) if n.version == version]
    four = [network for network in mine if isinstance(network, IPv4Network)]
    six = [network for network in mine if isinstance(network, IPv6Network)]
    found = [*collapse_addresses(four), *collapse_addresses(six)]
    return f"{{ {', '.join(map(str, found))} }}" if found else ""
