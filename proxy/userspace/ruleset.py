"""The nft table of the userspace data path, as text made from values.

Why pure: the rules are what keeps a pod away from a node's own ports, so they can be read and tested without
a kernel, and compared with what the kernel has by one checksum.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from proxy.model import IPAddress, IPNetwork, NodeFacts, Protocol, collapsed

FAMILY = "inet"
TABLE = "netplane_proxy"
MARK = 0x200


@dataclass(frozen=True, slots=True)
class Drop:
    """Silence at a frontend: for ``everyone``, or else for clients from outside the cluster only.

    ``address`` None stands for every address of the node. ``allowed``: silence is for all but these networks.
    """

    version: int
    address: IPAddress | None
    port: int
    everyone: bool = False
    protocol: Protocol = Protocol.TCP
    allowed: tuple[IPNetwork, ...] = ()

    @property
    def order(self) -> tuple[int, int, int, str, bool, str]:
        """A sort key."""
        at = int(self.address) if self.address else 0
        return (self.version, at, self.port, self.protocol, self.everyone, str(self.allowed))


def render(
    node: NodeFacts,
    addresses: Iterable[IPAddress],
    drops: Iterable[Drop],
    node_ports: Iterable[tuple[Protocol, int]] = (),
) -> str:
    """The whole table as one transaction that replaces whatever was there under this name.

    guard: a packet to a Service address that would reach a wildcard socket of the node (its agent, its sshd,
    also our own NodePort listeners) is answered as if nobody listened. divert: replies to connections that
    carry a client's address come back to the socket that has it.
    """
    singles = [ip_network(address) for address in addresses if address not in node.addresses]
    guarded = collapsed([*node.service_cidrs, *singles])
    own = [ip_network(address) for address in node.addresses]
    inside = collapsed([*node.cluster_cidrs, *own])
    drops = sorted(set(drops), key=lambda drop: drop.order)
    closed = _closed_lines(node.node_port_networks, node_ports)
    body = _chains(guarded, inside, drops, closed)
    rules = 2 * len(guarded) + len(drops) + len(closed) + 1
    mark = f"{hashlib.sha256(body.encode()).hexdigest()[:16]} {rules} rules"
    identity = f'chain identity {{\n    counter comment "{mark}"\n  }}'
    return (
        f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"
        f"table {FAMILY} {TABLE} {{\n  {identity}\n{body}}}\n"
    )


def marker(script: str) -> str:
    """The checksum and the number of rules that a rendered script carries into the kernel."""
    return script.partition('comment "')[2].partition('"')[0]


def _closed_lines(open_to: Iterable[IPNetwork], node_ports: Iterable[tuple[Protocol, int]]) -> list[str]:
    """NodePorts at addresses that were not chosen for them: refused, though our socket has every address."""
    networks = collapsed([*open_to])
    if not networks:
        return []
    lines = []
    for protocol, answer in ((Protocol.TCP, "reject with tcp reset"), (Protocol.UDP, "reject")):
        ports = ", ".join(str(port) for port in sorted({n for p, n in node_ports if p is protocol}))
        for version, word in ((4, "ip"), (6, "ip6")) if ports else ():
            mine = ", ".join(str(network) for network in networks if network.version == version)
            where = f"{word} daddr != {{ {mine} }}" if mine else f"meta nfproto ipv{version}"
            lower = protocol.lower()
            lines.append(f"  {where} {lower} dport {{ {ports} }} socket wildcard 1 {answer}")
    return lines


def _chains(guarded: list[IPNetwork], inside: list[IPNetwork], drops: list[Drop], closed: list[str]) -> str:
    lines = ["chain guard {", "  type filter hook input priority filter; policy accept;"]
    lines += [f"  {_drop_line(drop, inside)}" for drop in drops]
    lines += closed
    for network in guarded:
        word = "ip" if network.version == 4 else "ip6"
        to = f"  {word} daddr {network} meta l4proto"
        lines.append(f"{to} tcp socket wildcard 1 reject with tcp reset")
        lines.append(f"{to} udp socket wildcard 1 reject")
    lines += ["}", "chain divert {", "  type filter hook prerouting priority mangle; policy accept;"]
    lines.append(
        f"  meta l4proto {{ tcp, udp }} socket transparent 1 meta mark set meta mark or {MARK:#x} accept"
    )
    lines.append("}")
    return "".join(f"  {line}\n" for line in lines)


def _drop_line(drop: Drop, inside: list[IPNetwork]) -> str:
    word = "ip" if drop.version == 4 else "ip6"
    where = f"{word} daddr {drop.address}"
    if drop.address is None:
        where = f"meta nfproto ipv{drop.version} fib daddr type local"
    whom = ""
    if drop.allowed:
        whom = f"{word} saddr != {{ {', '.join(str(n) for n in collapsed([*drop.allowed]))} }} "
    elif not drop.everyone:
        mine = ", ".join(str(network) for network in inside if network.version == drop.version)
        # lo is spared: a loopback address is the node's own, and not among its addresses.
        whom = 'iifname != "lo" ' + (f"{word} saddr != {{ {mine} }} " if mine else "")
    return f"{whom}{where} {drop.protocol.lower()} dport {drop.port} drop"
