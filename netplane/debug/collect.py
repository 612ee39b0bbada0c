"""Looks into the kernel of the node it runs on, and prints what it finds as JSON.

``python -m netplane.debug.collect REQUEST`` is run on each node that a walk touches. It reads rtnetlink, /proc
and the nft listing, and changes nothing. What cannot be read is named in ``problems``, never left out.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netplane.config import Paths
from netplane.debug.facts import Facts, Listener, Lookup, Pod, Request, Route, Rules, decode_request, encode
from netplane.errors import KernelError, NetplaneError, PeerError
from netplane.linux import nft, sysctl
from netplane.linux.nfnetlink import Tables
from netplane.linux.rtnl import rtnl
from proxy.codec import encode_targets
from proxy.ebpf import observe as hooks
from proxy.model import Protocol, joined
from proxy.nftables import observe as translated
from proxy.nftables.names import FAMILY, TABLE
from proxy.userspace import observe

FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: answer with the table's own entry, protocol included
KINDS = {1: "unicast", 2: "local", 6: "blackhole", 7: "unreachable", 8: "prohibit"}  # rtnetlink(7)
PROXY_TABLE = ("inet", "netplane_proxy")
IFF_UP = 1


def collect(request: Request, node: str, root: Path) -> Facts:
    """Everything the request asks, from this thread's namespaces and the daemons under ``root``."""
    problems: dict[str, str] = {}
    found: dict[str, int] = {}
    pods: dict[str, Pod] = {}
    routes: dict[str, Route] = {}
    with rtnl() as ipr:
        for address in request.pods:
            pods[address], pid = _pod(ipr, address)
            if pid:
                found[address] = pid
            else:
                problems[f"pod {address}"] = "no process of this node is in its namespace"
        for lookup in request.lookups:
            if lookup.namespace and lookup.namespace not in found:
                continue
            routes[lookup.key] = _lookup(ipr, lookup, found)
    return Facts(
        node=node,
        pods=pods,
        routes=routes,
        listeners=_listeners(request.ports),
        rules=_rules(problems),
        forwarding=_forwarding(problems),
        targets=_targets(request.frontends, root, problems),
        translations=_translations(request.frontends, problems),
        told=_told(request.frontends, root, problems),
        problems=problems,
    )


def process_in(address: str) -> int:
    """A process in the network namespace of the local pod with this address; 0 where none is visible."""
    with rtnl() as ipr:
        return _behind(ipr, device_of(ipr, address), address)[1]


def device_of(ipr: IPRoute, address: str) -> str:
    """The host's end of a local pod's link, by the route to exactly its address; "" without one."""
    route = _ask(ipr, Lookup(to=address))
    exact = f"{address}/{ip_address(address).max_prefixlen}"
    return route.device if not route.error and route.network == exact else ""


def _pod(ipr: IPRoute, address: str) -> tuple[Pod, int]:
    """The pod's attachment, and a process in its namespace (0 where none is visible)."""
    routed = device_of(ipr, address)
    inode, pid = _behind(ipr, routed, address)
    device = routed or _link_into(ipr, pid)
    up = bool(device) and bool(_link(ipr, device)["flags"] & IFF_UP)
    if not pid:
        return Pod(device, bool(routed), up), 0
    sockets = observe.listening(Path(f"/proc/{pid}/net")).values()
    listeners = tuple(Listener(str(where), port) for where, port in sockets)
    return Pod(device, bool(routed), up, inode, listeners), pid


def _behind(ipr: IPRoute, device: str, address: str) -> tuple[int, int]:
    """(inode, process) of the namespace at the other end of a link; (0, 0) where no process there is visible.

    The link itself says which namespace that is. Without a link, a namespace that has the address is the pod's.
    """
    wanted = _link(ipr, device).get_attr("IFLA_LINK_NETNSID") if device else None
    for inode, pid in _namespaces().items():
        try:
            found = _has_address(pid, address) if wanted is None else _namespace_id(ipr, pid) == wanted
        except (OSError, KernelError, NetlinkError):
            continue  # it ended meanwhile
        if found:
            return inode, pid
    return 0, 0


def _namespace_id(ipr: IPRoute, pid: int) -> int:
    """How our namespace's links call the namespace of a process."""
    with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
        return int(ipr.get_netnsid(fd=namespace.fileno())["nsid"])


def _link_into(ipr: IPRoute, pid: int) -> str:
    """The link of ours whose other end is in the namespace of a process; "" for none."""
    if not pid:
        return ""
    wanted = _namespace_id(ipr, pid)
    names = (e.get_attr("IFLA_IFNAME") for e in ipr.get_links() if e.get_attr("IFLA_LINK_NETNSID") == wanted)
    return next(names, "")


def _link(ipr: IPRoute, device: str) -> Any:
    (index,) = ipr.link_lookup(ifname=device)
    return next(iter(ipr.get_links(index)))


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
    with rtnl(f"/proc/{pid}/ns/net") as ipr:
        return any(entry.get_attr("IFA_ADDRESS") == address for entry in ipr.get_addr())


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


def _listeners(ports: tuple[int, ...]) -> tuple[Listener, ...]:
    """The node's listeners at these ports, each with the process that has it open.

    A supervisor keeps copies of its daemons' sockets; the youngest process with the socket is the one that serves.
    """
    sockets = {inode: at for inode, at in observe.listening().items() if at[1] in ports}
    owners = _owners(set(sockets))
    return tuple(
        Listener(str(address), port, owners.get(inode, "")) for inode, (address, port) in sockets.items()
    )


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
    names = [Path(word).name for word in words if word.isprintable() and len(word) < 200]
    if names and names[0].startswith("python"):
        names = [name for name in names[1:] if not name.startswith("-")] or names
    return " ".join(names[:2])


def _rules(problems: dict[str, str]) -> Rules | None:
    try:
        listing = nft.listing(*PROXY_TABLE)
    except KernelError as error:
        problems["nft"] = str(error)
        return None
    translates = _translates()
    if listing is None:
        return Rules(translates=translates)
    texts = dict.fromkeys(("guard", "divert"), "")
    for entry in listing:
        rule = entry.get("rule") or {}
        if rule.get("chain") in texts:
            texts[rule["chain"]] += str(rule.get("expr"))
    guard, divert = "wildcard" in texts["guard"], "transparent" in texts["divert"]
    return Rules(True, guard, divert, translates)


def _translates() -> bool:
    """A table that is being left behind has chains, and no rules in them."""
    with Tables() as tables:
        return bool(tables.rules(FAMILY, TABLE).get("prerouting"))


def _translations(frontends: tuple[str, ...], problems: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Where the kernel's own maps lead the clients of these frontends."""
    try:
        entries = encode_targets(translated.targets()) if frontends else []
    except KernelError as error:
        problems["nft"] = str(error)
        return {}
    return _of(frontends, entries)


def _told(frontends: tuple[str, ...], root: Path, problems: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """What sockets of this node are told for these frontends, where they are told anything."""
    try:
        routes = (hooks.routes(Paths(root)) if frontends else None) or {}
    except KernelError as error:
        problems["bpf"] = str(error)
        return {}
    found = {}
    for frontend, route in routes.items():
        key = f"{joined(frontend.address, frontend.port)}|inside"
        if frontend.protocol is Protocol.TCP and key in frontends:
            found[key] = tuple(map(str, route.endpoints))
    return found


def _targets(frontends: tuple[str, ...], root: Path, problems: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """The proxy's own word on where it sends the clients of these frontends."""
    if not frontends:
        return {}
    try:
        entries = observe.ask(Paths(root).proxy_socket, "targets")
    except PeerError as error:
        problems["proxy"] = str(error)
        return {}
    return _of(frontends, entries)


def _of(frontends: tuple[str, ...], entries: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        at = entry["frontend"]
        for side in ("inside", "outside"):
            key = f"{joined(ip_address(at['address']), at['port'])}|{side}"
            if at["protocol"] == "TCP" and key in frontends:
                found[key] = _endpoints(entry.get(side) or entry["inside"])
    return found


def _endpoints(pool: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(joined(ip_address(e["address"]), e["port"]) for e in pool["endpoints"])


def _forwarding(problems: dict[str, str]) -> bool | None:
    try:
        return sysctl.read("net.ipv4.ip_forward") == "1"
    except NetplaneError as error:
        problems["forwarding"] = str(error)
        return None


def main(arguments: list[str]) -> int:
    """Prints the facts for the request in the first argument; the second is the node's name."""
    root = Path(os.environ.get("NETPLANE_ROOT", "/"))
    sys.stdout.buffer.write(encode(collect(decode_request(arguments[0]), arguments[1], root)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
