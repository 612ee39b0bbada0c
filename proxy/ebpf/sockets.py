"""The sockets of this node that were told endpoints: whom they speak to, and their end when an endpoint has gone.

Why sockets are looked for and not recorded: the kernel lists them, each with the cookie under which the programs wrote
down what it had asked for. So this is true whoever was running when they connected. Blocking: call it from a thread.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.linux.bpf import Map
from netplane.linux.sockdiag import Socket, Sockets
from proxy.ebpf.layout import NUMBERS, PROTOCOLS, STRUCTS, address_bytes, address_of
from proxy.ebpf.tables import Lost, service_names
from proxy.model import Endpoint, Frontend, IPAddress, Protocol, joined

_KEY, _VALUE = STRUCTS["origin_key"], STRUCTS["origin"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A socket, what its program asked for, and the number of the Service that this was then."""

    client: tuple[IPAddress, int]
    asked: Frontend
    endpoint: Endpoint
    service: int


def conversations(
    maps: Mapping[str, Map], cgroup: Path, protocols: Iterable[Protocol] = tuple(NUMBERS)
) -> Iterator[Conversation]:
    """All that connected sockets of this node's processes have with endpoints."""
    for _, _, found in _with_sockets(maps, cgroup, protocols):
        yield found


def describe(maps: Mapping[str, Map], cgroup: Path) -> list[dict[str, Any]]:
    """One entry a conversation, in the form in which the other modes tell theirs."""
    names = dict(service_names(maps["services"]))
    found = []
    for one in conversations(maps, cgroup):
        client = joined(*one.client)
        service = names.get(one.service, "").rpartition("/")[0] or "gone"
        entry = {"client": client, "arrived": "the socket", "frontend": str(one.asked), "service": service}
        found.append(
            entry | {"endpoint": str(one.endpoint), "source": client, "keepsClient": True, "connected": True}
        )
    return found


def end(maps: Mapping[str, Map], cgroup: Path, gone: Lost, protocols: Iterable[Protocol]) -> int:
    """Abort the sockets that speak to endpoints which their Service has lost; how many. Raises KernelError."""
    ended = 0
    for sockets, sock, found in _with_sockets(maps, cgroup, protocols):
        if (found.service, found.endpoint.address, found.endpoint.port) in gone:
            ended += sockets.end(sock)
    return ended


def _with_sockets(
    maps: Mapping[str, Map], cgroup: Path, protocols: Iterable[Protocol]
) -> Iterator[tuple[Sockets, Socket, Conversation]]:
    wanted = tuple(protocols)
    for netns in network_namespaces(cgroup):
        with Sockets(netns) as sockets:
            for protocol in wanted:
                for sock in sockets.connected(NUMBERS[protocol]):
                    found = _conversation(maps["origins"], sock)
                    if found is not None:
                        yield sockets, sock, found


def _conversation(origins: Map, sock: Socket) -> Conversation | None:
    address, port = sock.peer
    key = _KEY.pack(sock.cookie, address_bytes(address), port.to_bytes(2, "big"), sock.protocol, 0, 0)
    value = origins.get(key)
    if value is None:
        return None
    asked, asked_port, _, service = _VALUE.unpack(value)
    frontend = Frontend(address_of(asked), int.from_bytes(asked_port, "big"), PROTOCOLS[sock.protocol])
    return Conversation(sock.source, frontend, Endpoint(address, port), service)


def network_namespaces(cgroup: Path) -> Iterator[int]:
    """Those that the processes of a cgroup and the ones inside it are in, each once, as a descriptor for one turn.

    A process may enter another one at any moment, so what is looked at is what was opened.
    """
    seen: set[int] = set()
    for pid in _processes(cgroup):
        try:
            netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # it has ended, or is 0: one that this PID namespace does not show
            continue
        try:
            inode = os.fstat(netns).st_ino
            if inode not in seen:
                seen.add(inode)
                yield netns
        finally:
            os.close(netns)


def _processes(cgroup: Path) -> Iterator[str]:
    for listing in (cgroup / "cgroup.procs", *cgroup.rglob("*/cgroup.procs")):
        with suppress(OSError):  # the group has gone
            yield from listing.read_text().split()
