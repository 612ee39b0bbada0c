"""Looks into the kernel of the node it runs on, and prints what it finds as JSON.

``python -m netplane.debug.collect REQUEST`` is run on each node that a walk touches. It reads rtnetlink, /proc
and the nft listing, and changes nothing. What cannot be read is named in ``problems``, never left out.
"""

import os
import re
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netplane.debug.facts import Facts, Listener, Lookup, Pod, Request, Route, Rules, decode_request, encode
from netplane.errors import KernelError, NetplaneError
from netplane.linux import nft, sysctl
from netplane.linux.rtnl import rtnl

FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: answer with the table's own entry, protocol included
KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}  # rtnetlink(7)
LISTEN = "0A"
PROXY_TABLE = ("inet", "netplane_proxy")
IFF_UP = 1


def collect(request: Request, node: str) -> Facts:
    """Everything the request asks, from this thread's namespaces."""
    problems: dict[str, str] = {}
    found: dict[str, int] = {}
    pods: dict[str, Pod] = {}
    routes: dict[str, Route] = {}
    with rtnl() as ipr:
        namespaces = _namespaces()
        for address in request.pods:
            pods[address], pid = _pod(ipr, address, namespaces)
            if pid:
                found[address] = pid
            else:
                problems[f"pod {address}"] = "no process here is in a namespace with this address"
        for lookup in request.lookups:
            if lookup.namespace and lookup.namespace not in found:
                continue
            routes[lookup.key] = _lookup(ipr, lookup, found)
    return Facts(
        node=node,
        pods=pods,
        routes=routes,
        listeners=tuple(_named(_listeners(Path("/proc/thread-self/net"), request.ports))),
        rules=_rules(problems),
        forwarding=_forwarding(problems),
        problems=problems,
    )


def process_in(address: str) -> int:
    """A process in the network namespace that has this pod address; 0 where none is visible."""
    return next((pid for pid in _namespaces().values() if _has_address(pid, address)), 0)


def device_of(address: str) -> str:
    """The host's end of a local pod's link, by the route to exactly its address; "" without one."""
    with rtnl() as ipr:
        route = _ask(ipr, Lookup(to=address))
    exact = f"{address}/{ip_address(address).max_prefixlen}"
    return route.device if not route.error and route.network == exact else ""


def _pod(ipr: IPRoute, address: str, namespaces: dict[int, int]) -> tuple[Pod, int]:
    """The pod's attachment, and a process in its namespace (0 where none is visible)."""
    route = _ask(ipr, Lookup(to=address))
    device, up = "", False
    if not route.error and route.network == f"{address}/{ip_address(address).max_prefixlen}":
        device = route.device
        (index,) = ipr.link_lookup(ifname=device)
        up = bool(next(iter(ipr.get_links(index)))["flags"] & IFF_UP)
    for inode, pid in namespaces.items():
        if _has_address(pid, address):
            listeners = tuple(
                Listener(where, port) for where, port, _ in _listeners(Path(f"/proc/{pid}/net"), ())
            )
            return Pod(device, up, inode, listeners), pid
    return Pod(device, up), 0


def _namespaces() -> dict[int, int]:
    """Network namespaces other than our own: inode -> a process in it."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.setdefault((entry / "ns/net").stat().st_ino, int(entry.name))
            except OSError:
                continue  # it ended meanwhile
    found.pop(Path("/proc/thread-self/ns/net").stat().st_ino, None)
    return found


def _has_address(pid: int, address: str) -> bool:
    try:
        with rtnl(f"/proc/{pid}/ns/net") as ipr:
            return any(entry.get_attr("IFA_ADDRESS") == address for entry in ipr.get_addr())
    except (KernelError, NetlinkError):
        return False  # it ended meanwhile


def _lookup(ipr: IPRoute, lookup: Lookup, pods: dict[str, int]) -> Route:
    if not lookup.namespace:
        return _ask(ipr, lookup)
    try:
        with rtnl(f"/proc/{pods[lookup.namespace]}/ns/net") as inside:
            return _ask(inside, lookup)
    except KernelError as error:
        return Route(error=str(error))


def _ask(ipr: IPRoute, lookup: Lookup) -> Route:
    """RTM_GETROUTE: the kernel's own decision for one packet."""
    options: dict[str, Any] = {"dst": lookup.to}
    if lookup.source:
        options["src"] = lookup.source
    if lookup.mark:
        options["mark"] = lookup.mark
    if lookup.arriving:
        towards = _ask(ipr, Lookup(to=lookup.arriving))
        if towards.error:
            return Route(error=f"no device leads to {lookup.arriving}: {towards.error}")
        (options["iif"],) = ipr.link_lookup(ifname=towards.device)
    try:
        (message,) = ipr.route("get", flags=FIB_MATCH, **options)
    except NetlinkError as error:
        return Route(error=_reason(error))
    names = ipr.get_links(message.get_attr("RTA_OIF")) if message.get_attr("RTA_OIF") else ()
    default = "0.0.0.0" if message["family"] == 2 else "::"
    return Route(
        kind=KINDS.get(message["type"], str(message["type"])),
        device=next(iter(names)).get_attr("IFLA_IFNAME") if names else "",
        gateway=message.get_attr("RTA_GATEWAY") or "",
        network=f"{message.get_attr('RTA_DST') or default}/{message['dst_len']}",
        protocol=message["proto"],
        table=message.get_attr("RTA_TABLE") or message["table"],
    )


def _reason(error: NetlinkError) -> str:
    """The routing table's refusals have their own numbers: EINVAL is what a blackhole says."""
    return {
        22: "blackhole",
        113: "unreachable",
        13: "prohibited",
        101: "no route",
        18: "not accepted from there",
    }.get(error.code, str(error))


def _listeners(net: Path, ports: tuple[int, ...]) -> Iterator[tuple[str, int, int]]:
    """Listening TCP sockets of a namespace as (address, port, inode); all ports where none is named."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (net / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == LISTEN and (not ports or int(port, 16) in ports):
                yield _address(address), int(port, 16), int(fields[9])


def _address(text: str) -> str:
    """/proc/net/tcp writes addresses as 32-bit words in the host's byte order."""
    words = [text[i : i + 8] for i in range(0, len(text), 8)]
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return str(ip_address(packed))


def _named(found: Iterator[tuple[str, int, int]]) -> Iterator[Listener]:
    """Each listener with the process that has it open. A supervisor keeps copies; the youngest is the server."""
    sockets = list(found)
    owners = _owners({inode for _, _, inode in sockets})
    for address, port, inode in sockets:
        yield Listener(address, port, owners.get(inode, ""))


def _owners(inodes: set[int]) -> dict[int, str]:
    if not inodes:
        return {}
    found: dict[int, str] = {}
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(descriptor)  # noqa: PTH115 - "socket:[N]" is no path
                match = re.fullmatch(r"socket:\[(\d+)\]", target)
                if match and int(match[1]) in inodes:
                    found[int(match[1])] = f"{_command(pid)} (pid {pid})"
        except OSError:
            continue  # it ended meanwhile
    return found


def _command(pid: int) -> str:
    """What a person would call the process: `netplane proxy`, not the interpreter's path."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    names = [Path(word).name for word in words]
    if names and names[0].startswith("python"):
        names = [name for name in names[1:] if not name.startswith("-")] or names
    return " ".join(names[:2])


def _rules(problems: dict[str, str]) -> Rules | None:
    try:
        listing = nft.listing(*PROXY_TABLE)
    except KernelError as error:
        problems["nft"] = str(error)
        return None
    if listing is None:
        return Rules()
    texts = dict.fromkeys(("guard", "divert"), "")
    for entry in listing:
        rule = entry.get("rule") or {}
        if rule.get("chain") in texts:
            texts[rule["chain"]] += str(rule.get("expr"))
    return Rules(True, guard="wildcard" in texts["guard"], divert="transparent" in texts["divert"])


def _forwarding(problems: dict[str, str]) -> bool | None:
    try:
        return sysctl.read("net.ipv4.ip_forward") == "1"
    except NetplaneError as error:
        problems["forwarding"] = str(error)
        return None


def main(arguments: list[str]) -> int:
    """Prints the facts for the request in the first argument; the second is the node's name."""
    sys.stdout.buffer.write(encode(collect(decode_request(arguments[0]), arguments[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
