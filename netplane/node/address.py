"""Which address is this node's: the one that routes to the API server and the peers.

Never simply the first interface's: on Vagrant and VirtualBox that is 10.0.2.15 on every machine, behind a NAT.
The decision is pure; the look-up asks the kernel.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from netplane.config import IPAddress
from netplane.errors import ConfigError, KernelError, cause_of
from netplane.linux.rtnl import rtnl

VIRTUALBOX_NAT = ipaddress.ip_network("10.0.2.0/24")  # its default; every guest has 10.0.2.15 there
HINT = "Set nodeIp in the node's configuration"
RT_SCOPE_UNIVERSE = 0


@dataclass(frozen=True, slots=True)
class Local:
    """An address of this machine that others could use, and the interface that has it."""

    interface: str
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Facts:
    """What the kernel says. ``towards`` are the source addresses it would use to reach the API server and the
    peers, in this order; None where there is no route.
    """

    locals: Sequence[Local]
    towards: Sequence[IPAddress | None]


def choose(facts: Facts, wanted: IPAddress | None = None) -> IPAddress:
    """The node's address. Raises ConfigError naming the candidates when no rule singles one out."""
    have = [local.address for local in facts.locals]
    if wanted is not None:
        if wanted in have:
            return wanted
        raise ConfigError(
            f"cannot use nodeIp {wanted}: no interface has it (there are: {_list(facts.locals)})"
        )
    for source in facts.towards:
        if source is not None and source in have and not is_nat_like(source):
            return source
    rest = [local for local in facts.locals if not is_nat_like(local.address)]
    if len(rest) == 1:
        return rest[0].address
    found = _list(rest or facts.locals)
    raise ConfigError(f"cannot tell this node's address: the candidates are {found}", HINT)


def is_nat_like(address: IPAddress) -> bool:
    """Whether others cannot reach this machine by it: loopback, link-local, or the hypervisor's NAT."""
    return address.is_loopback or address.is_link_local or address in VIRTUALBOX_NAT


def _list(locals_: Sequence[Local]) -> str:
    return ", ".join(f"{local.address} ({local.interface})" for local in locals_) or "none"


def look_up(destinations: Sequence[IPAddress]) -> Facts:
    """Ask the kernel of the calling thread's network namespace. Blocks: for worker threads."""
    found: list[Local] = []
    towards: list[IPAddress | None] = []
    with rtnl() as ipr:
        names = {link["index"]: link.get("ifname") for link in ipr.get_links()}
        for message in ipr.get_addr(scope=RT_SCOPE_UNIVERSE):
            text = message.get("local") or message.get("address")
            # Our own DNS address and the like sit on lo; they are not where others find this node.
            if text and names[message["index"]] != "lo":
                found.append(Local(str(names[message["index"]]), ipaddress.ip_address(text)))
        towards += [_source(ipr, destination) for destination in destinations]
    return Facts(found, towards)


def _source(ipr: object, destination: IPAddress) -> IPAddress | None:
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    try:
        routes = list(ipr.route("get", dst=str(destination), family=family))  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - pyroute2 raises its own NetlinkError: no route there
        return None
    text = routes[0].get("prefsrc") if routes else None
    return ipaddress.ip_address(text) if text else None


async def resolve(server: str) -> list[IPAddress]:
    """The addresses of an API server's URL. Raises KernelError when its name cannot be resolved."""
    host = urlsplit(server).hostname or ""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise KernelError(f"cannot resolve the API server's name {host}: {cause_of(error)}") from None
    return list(dict.fromkeys(ipaddress.ip_address(answer[4][0]) for answer in answers))


async def find(server: str, peers: Sequence[IPAddress], wanted: IPAddress | None) -> IPAddress:
    """The node's address, from the API server's URL and the addresses of other nodes."""
    destinations = [address for address in await resolve(server) if not address.is_loopback]
    facts = await asyncio.to_thread(look_up, [*destinations, *peers])
    return choose(facts, wanted)
