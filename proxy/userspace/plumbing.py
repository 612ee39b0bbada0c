"""What the node's kernel must know so that Service traffic reaches the proxy, and replies come back to it.

Why it outlives the process: between the death of one proxy and the start of the next, listeners are kept by
the supervisor, and the packets of clients must go on reaching them. Everything here is observed first and
changed only where it differs; nothing is flushed. Blocking: call it from a worker thread in the node's
network namespace.

Owned kernel objects: routes and rules of protocol 96, table 91, mark bit 0x200, nft table inet netplane_proxy.
"""

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from netplane.errors import KernelError
from netplane.linux import nft, sysctl
from netplane.linux.rtnl import rtnl
from proxy.model import IPAddress, IPNetwork, NodeFacts, Protocol
from proxy.userspace.ruleset import FAMILY, MARK, TABLE, Drop, marker, render

ROUTE_PROTOCOL = 96
RULE_PRIORITY = 91
DIVERT_TABLE = 91
LOCAL_TABLE = 255  # RT_TABLE_LOCAL
RTN_LOCAL = 2
FR_ACT_TO_TBL = 1
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is wanted of the kernel. ``addresses``: Service addresses outside the Service networks.

    ``node_ports``: those of our wildcard sockets, where not every address of the node is to serve them.
    """

    node: NodeFacts
    addresses: frozenset[IPAddress] = frozenset()
    drops: frozenset[Drop] = frozenset()
    node_ports: frozenset[tuple[Protocol, int]] = frozenset()

    @property
    def rules(self) -> str:
        """The nft table that it asks for."""
        return render(self.node, self.addresses, self.drops, self.node_ports)

    @property
    def versions(self) -> list[int]:
        """The IP versions that this node has an address in."""
        return sorted({address.version for address in self.node.addresses})


def ensure(plan: Plan) -> list[str]:
    """Make it so; what was changed comes back, in words. Raises KernelError naming the step."""
    try:
        with rtnl() as ipr:
            done = _quiet_arp(ipr, plan.node)
            for version in plan.versions:
                done += _ensure_divert(ipr, version)
                done += _ensure_local_routes(ipr, plan, version)
    except (NetlinkError, OSError) as error:
        raise KernelError(f"cannot look at this node's routes and rules: {error}") from None
    done += _reuse_ports()
    if _observed_marker() != marker(plan.rules):
        _apply_rules(plan)
        done.append(f"nft table {FAMILY} {TABLE}")
    return done


def remove() -> None:
    """Take all of it away; what is not there is fine."""
    nft.delete_table(FAMILY, TABLE)
    with rtnl() as ipr:
        for family in FAMILIES.values():
            for rule in _rules(ipr, family):
                _call(f"remove rule {RULE_PRIORITY}", ipr.rule, "del", **rule)
            for route in _routes(ipr, family, DIVERT_TABLE) + _routes(ipr, family, LOCAL_TABLE):
                _call(f"remove route {route['dst']}", ipr.route, "del", **route)


def routed() -> list[IPNetwork]:
    """The networks that the kernel leads to this node for the proxy, as it says itself."""
    with rtnl() as ipr:
        return [
            ip_network(route["dst"])
            for family in FAMILIES.values()
            for route in _routes(ipr, family, LOCAL_TABLE)
        ]


def problems() -> list[str]:
    """Settings of this node under which the client's address cannot be kept, each with its remedy."""
    found = []
    if (
        sysctl.read("net.ipv4.conf.all.src_valid_mark") == "1"
        and sysctl.read("net.ipv4.conf.all.rp_filter") == "1"
    ):
        found.append(
            "net.ipv4.conf.all.src_valid_mark=1 with rp_filter=1 drops replies to diverted connections: "
            "set src_valid_mark=0 or rp_filter=2"
        )
    return found


def local_networks(plan: Plan, version: int) -> list[IPNetwork]:
    """What is to be routed to this node itself: the Service networks and single addresses outside them."""
    networks = [cidr for cidr in plan.node.service_cidrs if cidr.version == version]
    for address in plan.addresses:
        covered = any(address in network for network in networks)
        if address.version == version and not covered and address not in plan.node.addresses:
            networks.append(_single(address))
    return networks


def _single(address: IPAddress) -> IPNetwork:
    from ipaddress import ip_network

    return ip_network(address)


def _ensure_local_routes(ipr: IPRoute, plan: Plan, version: int) -> list[str]:
    """`ip route add local NETWORK dev lo src NODE`: without src the node's own clients would have the
    Service's address as their source."""
    family, done = FAMILIES[version], []
    loopback = ipr.link_lookup(ifname="lo")[0]
    source = str(plan.node.address(version))
    wanted = {str(network): source for network in local_networks(plan, version)}
    have = {route["dst"]: route.get("prefsrc") for route in _routes(ipr, family, LOCAL_TABLE)}
    for destination, prefsrc in wanted.items():
        if have.get(destination) != prefsrc:
            _call(
                f"route {destination} to the proxy",
                ipr.route,
                "replace",
                dst=destination,
                oif=loopback,
                prefsrc=prefsrc,
                table=LOCAL_TABLE,
                type=RTN_LOCAL,
                proto=ROUTE_PROTOCOL,
                scope=254,
                family=family,
            )
            done.append(f"route local {destination} src {prefsrc}")
    for route in _routes(ipr, family, LOCAL_TABLE):
        if route["dst"] not in wanted:
            _call(f"remove route {route['dst']}", ipr.route, "del", **route)
            done.append(f"no route local {route['dst']}")
    return done


def _ensure_divert(ipr: IPRoute, version: int) -> list[str]:
    family, done = FAMILIES[version], []
    if not _routes(ipr, family, DIVERT_TABLE):
        everything = "0.0.0.0/0" if version == 4 else "::/0"
        _call(
            f"route everything in table {DIVERT_TABLE} to this node",
            ipr.route,
            "replace",
            dst=everything,
            oif=ipr.link_lookup(ifname="lo")[0],
            table=DIVERT_TABLE,
            type=RTN_LOCAL,
            proto=ROUTE_PROTOCOL,
            scope=254,
            family=family,
        )
        done.append(f"route local {everything} table {DIVERT_TABLE}")
    if not _rules(ipr, family):
        _call(
            f"add rule {RULE_PRIORITY} for mark {MARK:#x}",
            ipr.rule,
            "add",
            family=family,
            priority=RULE_PRIORITY,
            fwmark=MARK,
            fwmask=MARK,
            table=DIVERT_TABLE,
            action=FR_ACT_TO_TBL,
            protocol=ROUTE_PROTOCOL,
        )
        done.append(f"rule {RULE_PRIORITY} fwmark {MARK:#x} (IPv{version})")
    return done


def _routes(ipr: IPRoute, family: int, table: int) -> list[dict[str, Any]]:
    """Our routes of a table, in the form that deletes them."""
    found = []
    for message in ipr.get_routes(family=family, table=table):
        if message["proto"] != ROUTE_PROTOCOL:
            continue
        destination = message.get_attr("RTA_DST") or ("0.0.0.0" if family == socket.AF_INET else "::")
        route = {
            "dst": f"{destination}/{message['dst_len']}",
            "oif": message.get_attr("RTA_OIF"),
            "table": table,
            "type": message["type"],
            "proto": ROUTE_PROTOCOL,
            "scope": message["scope"],
            "family": family,
        }
        if message.get_attr("RTA_PREFSRC"):
            route["prefsrc"] = message.get_attr("RTA_PREFSRC")
        found.append(route)
    return found


def _rules(ipr: IPRoute, family: int) -> list[dict[str, Any]]:
    """Our rules, in the form that deletes them."""
    return [
        {"family": family, "priority": RULE_PRIORITY, "fwmark": MARK, "fwmask": MARK, "table": DIVERT_TABLE}
        for message in ipr.get_rules(family=family)
        if message.get_attr("FRA_PRIORITY") == RULE_PRIORITY and message.get_attr("FRA_FWMARK") == MARK
    ]


def _quiet_arp(ipr: IPRoute, node: NodeFacts) -> list[str]:
    """A Service address is local to every node, so none of them may answer for it on the shared link."""
    address = node.address(4)
    if address is None:
        return []
    for message in ipr.get_addr(family=socket.AF_INET):
        if message.get_attr("IFA_LOCAL") == str(address):
            link = ipr.get_links(message["index"])[0].get_attr("IFLA_IFNAME").replace(".", "/")
            settings = (
                (f"net.ipv4.conf.{link}.arp_ignore", "1"),
                (f"net.ipv4.conf.{link}.arp_announce", "2"),
            )
            return [f"{name}={value}" for name, value in settings if sysctl.write(name, value)]
    raise KernelError(
        f"cannot keep ARP quiet for Service addresses: no interface has the node's address {address}",
        "The node's address must be one of this machine's",
    )


def _reuse_ports() -> list[str]:
    """Let a new connection take the port of one in TIME_WAIT (tcp_tw_reuse, ip-sysctl: safe with timestamps).

    Else a client could open 19,700 connections to an endpoint a minute and not one more.
    """
    return ["net.ipv4.tcp_tw_reuse=1"] if sysctl.write("net.ipv4.tcp_tw_reuse", "1") else []


def _apply_rules(plan: Plan) -> None:
    script = plan.rules
    try:
        nft.apply(script)
    except KernelError as error:
        raise KernelError(
            f"cannot load nft table {FAMILY} {TABLE}: {error.message}",
            "The kernel needs nf_tables with nft_socket and nft_reject (Linux 5.10 or newer)",
        ) from None


def _observed_marker() -> str:
    """What the rules in the kernel say they were made from; "" where rules are missing or were added."""
    rules: list[dict[str, Any]] = [e["rule"] for e in nft.listing(FAMILY, TABLE) or [] if "rule" in e]
    said = next((str(rule.get("comment", "")) for rule in rules if rule["chain"] == "identity"), "")
    return said if said.endswith(f" {len(rules) - 1} rules") else ""


def _call(step: str, function: Any, *arguments: Any, **options: Any) -> None:
    try:
        function(*arguments, **options)
    except NetlinkError as error:
        if error.code in (errno.ENOENT, errno.ESRCH) and arguments[:1] == ("del",):
            return
        raise KernelError(f"cannot {step}: {error}") from None
