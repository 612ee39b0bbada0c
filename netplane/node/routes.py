"""Routes to the pods of the other nodes: reconciled whole, ours only (route protocol 98).

Wanted comes from the Nodes, present from the kernel, and the difference is applied; a Node whose fields make no sense
is skipped with a warning and harms nobody else's route. Our own pod CIDR is made unreachable as a whole, so that what
is sent to a pod that is gone fails at once and never leaves by a default route; living pods have routes of their own
(/32), which win.

Others change the kernel's routes, too: a network daemon that tidies up takes ours away, and a link that goes down takes
along what led over it, without a word. So whatever the kernel says of its routes is a reason to look again: at the
latest, the link's own route comes back with a word.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from pyroute2.netlink.exceptions import NetlinkError

from netplane.config import IPAddress, IPNetwork
from netplane.kube.objects import Object, name_of
from netplane.linux import rtmessages
from netplane.linux.rtnl import rtnl

log = logging.getLogger(__name__)

PROTOCOL = 98
MAIN_TABLE = 254
RTN_UNICAST, RTN_UNREACHABLE = 1, 7
LOOK_EVERY = 30.0  # seconds; should word of a change ever not reach us
LOOK_PAUSE = 1.0  # seconds; each pod that comes or goes is a change of routes


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """``gateway`` is None for a destination that is to be unreachable."""

    destination: IPNetwork
    gateway: IPAddress | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The routes to have, and what was wrong with the Nodes they come from."""

    routes: frozenset[Route]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do, in this order."""

    remove: tuple[Route, ...]
    add: tuple[Route, ...]


def pod_cidrs(node: Object) -> list[str]:
    """`spec.podCIDRs`, or the older single field."""
    spec = node.get("spec") or {}
    return list(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []))


def internal_addresses(node: Object) -> list[str]:
    """Its InternalIP entries."""
    entries = (node.get("status") or {}).get("addresses") or []
    return [str(entry.get("address")) for entry in entries if entry.get("type") == "InternalIP"]


def wanted(own_name: str, nodes: Iterable[Object]) -> Wanted:
    """Pure: the routes that follow from the Nodes. The older of two Nodes that claim one CIDR has it."""
    routes: dict[IPNetwork, Route] = {}
    owners: dict[IPNetwork, str] = {}
    warnings: list[str] = []
    # Ours first: what it claims no other Node may take away.
    ordered = sorted(nodes, key=lambda node: (name_of(node) != own_name, _age(node), name_of(node)))
    for node in ordered:
        name = name_of(node)
        for text in pod_cidrs(node):
            try:
                network = ipaddress.ip_network(text)
                if taken := next((other for other in owners if _overlap(network, other)), None):
                    raise ValueError(f"overlaps {taken} of node {owners[taken]}")
                gateway = None if name == own_name else _gateway(node, network)
            except ValueError as error:
                warnings.append(f"node {name}: no route to its pod CIDR {text}: {error}")
                continue
            owners[network] = name
            routes[network] = Route(network, gateway)
    return Wanted(frozenset(routes.values()), tuple(warnings))


def _age(node: Object) -> str:
    return str((node.get("metadata") or {}).get("creationTimestamp") or "")


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _gateway(node: Object, network: IPNetwork) -> IPAddress:
    for text in internal_addresses(node):
        address = ipaddress.ip_address(text)
        if address.version == network.version:
            if address in network or address.is_loopback or address.is_unspecified:
                raise ValueError(f"its InternalIP {address} cannot be a gateway to it")
            return address
    raise ValueError(f"it has no InternalIP of IPv{network.version}")


def diff(present: frozenset[Route], want: frozenset[Route]) -> Changes:
    """Pure. A destination whose gateway changes is replaced by the addition, not removed first."""
    kept = {route.destination for route in want}
    remove = tuple(sorted(_sorted(route for route in present - want if route.destination not in kept)))
    return Changes(remove, tuple(_sorted(want - present)))


def _sorted(routes: Iterable[Route]) -> list[Route]:
    return sorted(routes, key=lambda route: (route.destination.version, str(route.destination)))


def observe() -> frozenset[Route]:
    """Our routes in the kernel, of the calling thread's network namespace. Blocks."""
    return frozenset(
        Route(found.destination, next(iter(found.gateways), None))
        for family in (socket.AF_INET, socket.AF_INET6)
        for found in rtmessages.routes(family, PROTOCOL)
        if found.table == MAIN_TABLE
    )


def apply(changes: Changes) -> list[str]:
    """Do it, in the calling thread's network namespace; what the kernel refused comes back as text. Blocks."""
    problems: list[str] = []
    with rtnl() as ipr:
        for verb, routes in (("del", changes.remove), ("replace", changes.add)):
            for route in routes:
                try:
                    ipr.route(verb, **_arguments(route))
                    log.info("%s route to %s via %s", verb, route.destination, route.gateway or "nothing")
                except NetlinkError as error:
                    problems.append(f"cannot {verb} the route to {route.destination}: {error.args[-1]}")
    return problems


def _arguments(route: Route) -> dict[str, object]:
    arguments: dict[str, object] = {
        "dst": str(route.destination),
        "proto": PROTOCOL,
        "table": MAIN_TABLE,
        "type": RTN_UNREACHABLE if route.gateway is None else RTN_UNICAST,
    }
    if route.gateway is not None:
        arguments["gateway"] = str(route.gateway)
    return arguments


def reconcile(own_name: str, nodes: Sequence[Object]) -> tuple[int, list[str]]:
    """Make the kernel's routes follow the Nodes: how many there are now, and what could not be done. Blocks."""
    want = wanted(own_name, nodes)
    problems = apply(diff(observe(), want.routes))
    return len(want.routes) - len(problems), [*want.warnings, *problems]


async def unrest() -> AsyncIterator[None]:
    """Whenever this node's routes may be others than they were. Within the event loop's network namespace."""
    with rtmessages.Notices(rtmessages.ROUTES) as notices:
        while True:
            await notices.heard(LOOK_EVERY)
            yield
            await asyncio.sleep(LOOK_PAUSE)
