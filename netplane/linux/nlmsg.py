"""Netlink messages (linux/netlink.h, netlink(7)): a header and a body, filled up to four bytes.

A datagram holds several. What a body is made of, each family says itself; attributes are in ``nlattr``.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETFILTER = 12  # NETLINK_NETFILTER, which Python's socket module does not name
REQUEST, ACK, DUMP, CREATE, APPEND = 0x1, 0x4, 0x300, 0x400, 0x800  # NLM_F_…
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what was listed has changed meanwhile
ERROR, DONE = 2, 3  # NLMSG_…
HEADER = struct.Struct("=IHHII")
_STATUS = struct.Struct("=i")


def opened(protocol: int, seconds: int) -> socket.socket:
    """A socket in the calling thread's network namespace that waits so long for an answer and no longer."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))
    return made


class Message(NamedTuple):
    """One message, taken out of what was received."""

    kind: int
    flags: int
    sequence: int
    body: memoryview

    @property
    def ends(self) -> bool:
        """Whether it is the last of an answer: an acknowledgement, an error, or the end of a dump."""
        return self.kind in (ERROR, DONE)

    @property
    def status(self) -> int:
        """Of one that ends an answer: 0, or the errno."""
        return -_STATUS.unpack_from(self.body)[0] if len(self.body) >= _STATUS.size else 0


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """As it is sent."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """Those of one datagram."""
    view, offset = memoryview(data), 0
    while offset + HEADER.size <= len(view):
        size, kind, flags, sequence, _ = HEADER.unpack_from(view, offset)
        yield Message(kind, flags, sequence, view[offset + HEADER.size : offset + size])
        offset += (size + 3) & ~3


def refusal(status: int) -> OSError:
    """An errno as the error that it is."""
    return OSError(status, os.strerror(status))
