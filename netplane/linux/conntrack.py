"""The kernel's table of connections: who talks to whom, and what address translation made of it.

Why of interest: a translation outlives the rule that made it, for as long as the client goes on sending. A UDP client
whose endpoint is gone must be forgotten, or it sends into nothing for ever.

Own messages (linux/netfilter/nfnetlink_conntrack.h): a flow is read in a few microseconds and the kernel filters.
"""

import errno
import socket
import struct
import sys
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
_FILTER, _ORIGINAL_BY = 25, 1  # CTA_FILTER, CTA_FILTER_ORIG_FLAGS
_NESTED = 0x8000  # NLA_F_NESTED, without which the kernel takes no CTA_FILTER
_BY_PROTOCOL, _BY_PORT = 1 << 3, 1 << 5  # CTA_FILTER_FLAG of CTA_PROTO_NUM and CTA_PROTO_DST_PORT
_ADDRESSES = {4: (1, 2), 6: (3, 4)}
BOTH = 0
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ASKED = {**_FAMILY, BOTH: socket.AF_UNSPEC}
_VERSION = {int(family): version for version, family in _FAMILY.items()}
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: with all of these bits of ``status``, of this ``protocol``, called at this ``port``; 0 is any.

    The kernel leaves the others out, so that a large table costs a walk through it and no more.
    """

    status: int = 0
    protocol: int = 0
    port: int = 0

    @property
    def asked(self) -> bytes:
        """As attributes of the question."""
        asked = number(_STATUS, self.status) + number(_STATUS_MASK, self.status) if self.status else b""
        if not self.protocol:
            return asked
        by, named = _BY_PROTOCOL, attribute(_NUMBER, bytes((self.protocol,)))
        if self.port:
            by, named = by | _BY_PORT, named + attribute(_DESTINATION_PORT, self.port.to_bytes(2, "big"))
        chosen = attribute(_ORIGINAL_BY, by.to_bytes(4, sys.byteorder))
        return (
            asked + attribute(_ORIGINAL, attribute(_PROTOCOL, named)) + attribute(_FILTER | _NESTED, chosen)
        )

    def has(self, flow: Flow) -> bool:
        """Whether this is one of them: a kernel before 5.18 does not choose by status."""
        alike = self.protocol in (0, flow.protocol) and self.port in (0, flow.called.destination_port)
        return alike and flow.status & self.status == self.status


EVERYTHING, TRANSLATED = Wanted(), Wanted(status=DST_NAT)


def any_of(_body: bytes) -> bool:
    """Any entry is worth reading."""
    return True


def flows(version: int, wanted: Wanted = EVERYTHING, worth: Callable[[bytes], bool] = any_of) -> list[Flow]:
    """Entries of an IP version (or ``BOTH`` of them), in the calling thread's network namespace.

    ``worth``: whether an entry can matter, by its message alone, in which addresses stand packed: to read one takes ten
    times as long as to look for an address in it. Blocking. Raises KernelError.
    """
    with opened(NETFILTER, _SECONDS) as sock:
        _send(sock, _GET, REQUEST | DUMP, version, wanted.asked)
        found = [_read(body) for body in _answers(sock) if worth(body)]
    return [flow for flow in found if flow is not None and wanted.has(flow)]


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


def forget_where(matches: Callable[[Flow], bool], wanted: Wanted = EVERYTHING) -> int:
    """Delete all entries that match, of both IP versions. Blocking. Raises KernelError."""
    found = [flow for version in _FAMILY for flow in flows(version, wanted) if matches(flow)]
    return forget(found) if found else 0


def before_destination(version: int) -> bytes:
    """What stands in a packed entry between the source's address and the destination's, of either direction.

    The kernel writes one after the other (ipv4_tuple_to_nlattr in net/netfilter/nf_conntrack_proto.c).
    """
    size = 4 if version == 4 else 16
    return attribute(_ADDRESSES[version][1], bytes(size))[:-size]


def _send(sock: socket.socket, kind: int, flags: int, version: int, data: bytes) -> None:
    body = _GENERIC.pack(_ASKED[version], 0, 0) + data
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
                yield bytes(one.body)
            elif one.status > 0:
                refused = refusal(one.status)
                raise _trouble(refused) from refused
            else:
                return


def _trouble(error: OSError) -> KernelError:
    return KernelError(f"cannot look at the kernel's connections (conntrack): {error.strerror}")


def _read(body: bytes) -> Flow | None:
    version, found = _VERSION.get(body[0], 0), attributes(body[_GENERIC.size :])
    if not version:
        return None
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
