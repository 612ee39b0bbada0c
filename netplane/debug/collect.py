"""Looks into the kernel of the node it runs on, and prints what it finds as JSON.

``python -m netplane.debug.collect REQUEST`` is run on each node that a walk touches. It reads rtnetlink, /proc
and the nft listing, and changes nothing. What cannot be read is named in ``problems``, never left out.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from netplane.config import Paths
from netplane.debug.attached import Attachment, attachment
from netplane.debug.facts import Facts, Listener, Lookup, Pod, Request, Route, Rules, decode_request, encode
from netplane.debug.routing import ask
from netplane.errors import KernelError, NetplaneError, PeerError
from netplane.linux import nft, sysctl
from netplane.linux.nfnetlink import Tables
from netplane.linux.rtnl import rtnl
from proxy.codec import encode_targets
from proxy.ebpf import observe as hooks
from proxy.model import Frontend, Protocol, joined
from proxy.nftables import observe as translated
from proxy.nftables.names import FAMILY, TABLE
from proxy.userspace import observe

PROXY_TABLE = ("inet", "netplane_proxy")


def collect(request: Request, node: str, root: Path) -> Facts:
    """Everything the request asks, from this thread's namespaces and the daemons under ``root``."""
    problems: dict[str, str] = {}
    found: dict[str, int] = {}
    pods: dict[str, Pod] = {}
    routes: dict[str, Route] = {}
    short = _short(root, problems) if request.pods else set()
    with rtnl() as ipr:
        for address in request.pods:
            attached = attachment(ipr, address)
            pods[address] = replace(_pod(attached), short=address in short)
            if attached.inside:
                found[address] = attached.inside.pid
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


def _pod(found: Attachment) -> Pod:
    if found.inside is None:
        return Pod(found.device, found.routed, found.up)
    listeners = tuple(listener for _, listener in _sockets(Path(f"/proc/{found.inside.pid}/net")))
    return Pod(found.device, found.routed, found.up, found.inside.inode, listeners)


def _lookup(ipr: IPRoute, lookup: Lookup, pods: dict[str, int]) -> Route:
    if not lookup.namespace:
        return ask(ipr, lookup)
    try:
        with rtnl(f"/proc/{pods[lookup.namespace]}/ns/net") as inside:
            return ask(inside, lookup)
    except KernelError as error:
        return Route(error=str(error))


def _listeners(ports: tuple[int, ...]) -> tuple[Listener, ...]:
    """The node's listeners at these ports, each with the process that has it open.

    A supervisor keeps copies of its daemons' sockets; the youngest process with the socket is the one that serves.
    """
    sockets = {inode: listener for inode, listener in _sockets() if listener.port in ports}
    owners = _owners(set(sockets))
    return tuple(replace(listener, process=owners.get(inode, "")) for inode, listener in sockets.items())


def _sockets(proc: Path = Path("/proc/thread-self/net")) -> Iterator[tuple[int, Listener]]:
    """Whatever anybody may send to in a network namespace, by inode."""
    for protocol, found in ((Protocol.TCP, observe.listening(proc)), (Protocol.UDP, observe.receiving(proc))):
        for inode, (address, port) in found.items():
            yield inode, Listener(str(address), port, protocol=protocol)


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
    """What a person would call the process: `netplane proxy`, not the interpreter's path; else what it calls itself."""
    own = Path(f"/proc/{pid}/comm").read_text().strip()
    if own.startswith("netplane-"):  # a process that another one became has that one's command line
        return own
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
        key = f"{frontend}|inside"
        if key in frontends:
            found[key] = tuple(map(str, route.endpoints))
    return found


def _short(root: Path, problems: dict[str, str]) -> set[str]:
    """The pods of this node that reach each other past the host's stack."""
    try:
        return set(map(str, hooks.short_cuts(Paths(root))))
    except KernelError as error:
        problems["bpf"] = str(error)
        return set()


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
        frontend = Frontend(ip_address(at["address"]), at["port"], Protocol(at["protocol"]))
        for side in ("inside", "outside"):
            key = f"{frontend}|{side}"
            if key in frontends:
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
