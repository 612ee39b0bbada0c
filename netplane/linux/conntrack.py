"""The kernel's table of connections: who talks to whom, and what address translation made of it.

Why of interest: a translation outlives the rule that made it, for as long as the client goes on sending. A UDP client
whose endpoint is gone must be forgotten, or it sends into nothing for ever.

Own messages (linux/netfilter/nfnetlink_conntrack.h): a flow is read in a few microseconds and the kernel filters.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from netplane.errors import KernelError
from netplane.linux.nlattr import attribute, attributes, number
from netplane.linux.nlmsg import ACK, DUMP, NETFILTER, REQUEST, message, messages, opened, refusal

TCP, UDP, SCTP = 6, 17, 132
SRC_NAT, DST_NAT = 0x10, 0x20  # IPS_SRC_NAT, IPS_DST_NAT
SEEN_REPLY = 0x2  # IPS_SEEN_REPLY

_GET, _DELETE = 0x0101, 0x0102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_…
_ORIGINAL, _REPLY, _STATUS, _ID, _STATUS_MASK = 1, 2, 3, 12, 26
_IP, _PROTOCOL = 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_ADDRESSES = {4: (1, 2), 6: (3, 4)}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_GENERIC = struct.Struct("=BBH")
_READ_BYTES = 1 << 17
_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Way:
    """One direction, as its packets say: addresses packed, ports as numbers (0 where there are none)."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry. ``called`` is as the client began it; ``answers`` are what comes back before it is translated.

    So ``answers.source`` is the endpoint, and ``answers.destination`` the address that it sees.
    """

    version: int
    protocol: int
    called: Way
    answers: Way
    status: int
    handle: bytes

    @property
    def translated(self) -> bool:
        """Whether its destination was."""
        return bool(self.status & DST_NAT)


def flows(version: int, *, translated: bool = False, status: int = 0) -> list[Flow]:
    """All entries of an IP version, in the calling thread's network namespace; or those with a bit of ``status``, such
    as those whose destination was ``translated``. Blocking. Raises KernelError.
    """
    status = DST_NAT if translated else status
    wanted = number(_STATUS, status) + number(_STATUS_MASK, status) if status else b""
    with opened(NETFILTER, _SECONDS) as sock:
        _send(sock, _GET, REQUEST | DUMP, version, wanted)
        found = [_read(version, body) for body in _answers(sock)]
    # Kernels before 5.18 do not filter by status.
    return [flow for flow in found if flow is not None and flow.status & status == status]


def forget(unwanted: Iterable[Flow]) -> int:
    """Delete entries; how many were still there. Blocking. Raises KernelError."""
    count = 0
    with opened(NETFILTER, _SECONDS) as sock:
        for flow in unwanted:
            _send(sock, _DELETE, REQUEST | ACK, flow.version, flow.handle)
            try:
                list(_answers(sock))
            except KernelError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENOENT:
                    raise
            else:
                count += 1
    return count


def forget_where(matches: Callable[[Flow], bool], *, translated: bool = False) -> int:
    """Delete all entries that match, of both IP versions. Blocking. Raises KernelError."""
    found = [flow for version in _FAMILY for flow in flows(version, translated=translated) if matches(flow)]
    return forget(found) if found else 0


def _send(sock: socket.socket, kind: int, flags: int, version: int, data: bytes) -> None:
    body = _GENERIC.pack(_FAMILY[version], 0, 0) + data
    try:
        sock.send(message(kind, flags, body))
    except OSError as error:
        raise _trouble(error) from error


def _answers(sock: socket.socket) -> Iterator[bytes]:
    """The bodies of an answer's messages, until it ends."""
    while True:
        try:
            data = sock.recv(_READ_BYTES)
        except OSError as error:
            raise _trouble(error) from error
        for one in messages(data):
            if not one.ends:
                yield bytes(one.body[_GENERIC.size :])
            elif one.status > 0:
                refused = refusal(one.status)
                raise _trouble(refused) from refused
            else:
                return


def _trouble(error: OSError) -> KernelError:
    return KernelError(f"cannot look at the kernel's connections (conntrack): {error.strerror}")


def _read(version: int, body: bytes) -> Flow | None:
    found = attributes(body)
    called, protocol = _way(version, found.get(_ORIGINAL, b""))
    answers, _ = _way(version, found.get(_REPLY, b""))
    if called is None or answers is None:
        return None
    handle = attribute(_ORIGINAL, found[_ORIGINAL]) + attribute(_ID, found.get(_ID, b""))
    return Flow(version, protocol, called, answers, int.from_bytes(found.get(_STATUS, b""), "big"), handle)


def _way(version: int, data: bytes) -> tuple[Way | None, int]:
    found = attributes(data)
    addresses, protocol = attributes(found.get(_IP, b"")), attributes(found.get(_PROTOCOL, b""))
    source, destination = (addresses.get(kind) for kind in _ADDRESSES[version])
    if source is None or destination is None:
        return None, 0
    ports = (int.from_bytes(protocol.get(kind, b""), "big") for kind in (_SOURCE_PORT, _DESTINATION_PORT))
    source_port, destination_port = ports
    way = Way(source, source_port, destination, destination_port)
    return way, int.from_bytes(protocol.get(_NUMBER, b""), "big")
