"""What the node's kernel must know so that Service traffic reaches the proxy, and replies come back to it.

Why it outlives the process: between the death of one proxy and the start of the next, listeners are kept by
the supervisor, and the packets of clients must go on reaching them. Everything here is observed first and
changed only where it differs; nothing is flushed. Blocking: call it from a worker thread in the node's
network namespace.

Owned kernel objects: rules of protocol 96, table 91, mark bit 0x200, nft table inet netplane_proxy; and the routes of
``proxy.routes``, which other modes share.
"""

from dataclasses import dataclass, replace
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from netplane.errors import KernelError
from netplane.linux import nft, sysctl
from netplane.linux.rtnl import rtnl
from proxy import routes
from proxy.model import IPAddress, NodeFacts, Protocol
from proxy.routes import DIVERT_TABLE, FAMILIES, ROUTE_PROTOCOL, RTN_LOCAL, Led, call, of_table
from proxy.userspace.ruleset import FAMILY, MARK, TABLE, Drop, marker, render

RULE_PRIORITY = 91
FR_ACT_TO_TBL = 1


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


def ensure(plan: Plan) -> Led:
    """Make it so; what was changed, and which addresses cannot be served here. Raises KernelError naming the step."""
    led = routes.ensure(plan.node, plan.addresses, sockets=True)
    done, plan = led.done, replace(plan, addresses=led.singles.own)
    try:
        with rtnl() as ipr:
            for version in plan.node.versions:
                done += _ensure_divert(ipr, version)
    except (NetlinkError, OSError) as error:
        raise KernelError(f"cannot look at this node's rules: {error}") from None
    done += _reuse_ports()
    if _observed_marker() != marker(plan.rules):
        _apply_rules(plan)
        done.append(f"nft table {FAMILY} {TABLE}")
    return led


def remove() -> None:
    """Take all of it away; what is not there is fine."""
    remove_own()
    routes.remove()


def remove_own() -> None:
    """Take away what no other mode uses."""
    nft.delete_table(FAMILY, TABLE)
    with rtnl() as ipr:
        for family in FAMILIES.values():
            for rule in _rules(ipr, family):
                call(f"remove rule {RULE_PRIORITY}", ipr.rule, "del", **rule)
            for route in of_table(ipr, family, DIVERT_TABLE):
                call(f"remove route {route['dst']}", ipr.route, "del", **route)


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


def _ensure_divert(ipr: IPRoute, version: int) -> list[str]:
    family, done = FAMILIES[version], []
    if not of_table(ipr, family, DIVERT_TABLE):
        everything = "0.0.0.0/0" if version == 4 else "::/0"
        call(
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
        call(
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


def _rules(ipr: IPRoute, family: int) -> list[dict[str, Any]]:
    """Our rules, in the form that deletes them."""
    return [
        {"family": family, "priority": RULE_PRIORITY, "fwmark": MARK, "fwmask": MARK, "table": DIVERT_TABLE}
        for message in ipr.get_rules(family=family)
        if message.get_attr("FRA_PRIORITY") == RULE_PRIORITY and message.get_attr("FRA_FWMARK") == MARK
    ]


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
