"""Sockets of other processes, listed and ended: NETLINK_SOCK_DIAG (linux/inet_diag.h, sock_diag(7)).

Why not /proc/net/tcp: a listing by netlink is taken in one pass, knows each socket's cookie, which is what BPF programs
know a socket by, and can end one (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY).
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from netplane.errors import KernelError, cause_of
from netplane.linux.namespaces import socket_in
from netplane.linux.nlmsg import ACK, DONE, DUMP, REQUEST, message, messages

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
ESTABLISHED, SYN_SENT, CLOSE_WAIT = 1 << 1, 1 << 2, 1 << 8
CONNECTED = ESTABLISHED | SYN_SENT | CLOSE_WAIT  # states in which a socket's peer may still be spoken to
_ASK = struct.Struct("=BBBxI")  # inet_diag_req_v2 before its socket: family, protocol, extensions, states
_ID = struct.Struct("=2s2s16s16sIQ")  # inet_diag_sockid: ports, addresses, interface, cookie
_HEAD = struct.Struct("=BBBB")  # inet_diag_msg before its socket: family, state, timer, retransmits

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Socket:
    """One socket with a peer. ``cookie`` names it for as long as the machine runs; ``raw`` is what the kernel said."""

    family: int
    protocol: int
    source: tuple[IPAddress, int]
    peer: tuple[IPAddress, int]
    cookie: int
    raw: bytes


class Sockets:
    """The sockets of one network namespace (a path or a descriptor). Raises KernelError where it cannot be entered."""

    def __init__(self, netns: int | str | os.PathLike[str]) -> None:
        self._sock = socket_in(netns, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._sock.settimeout(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def connected(self, protocol: int) -> list[Socket]:
        """All of a protocol (IPPROTO_TCP, IPPROTO_UDP) that have a peer, over IPv4 and IPv6."""
        found: list[Socket] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            ask = _ASK.pack(family, protocol, 0, CONNECTED) + bytes(_ID.size)
            self._send(message(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, ask))
            found.extend(self._answers(protocol))
        return found

    def end(self, sock: Socket) -> bool:
        """Abort it: its program reads ECONNABORTED, TCP's peer a reset. False where it has ended by itself."""
        ask = _ASK.pack(sock.family, sock.protocol, 0, 0xFFFFFFFF) + sock.raw
        self._send(message(SOCK_DESTROY, REQUEST | ACK, ask))
        status = next(messages(self._heard(4096))).status
        if status == 0:
            return True
        if status in (errno.ENOENT, errno.ESTALE):
            return False
        if status in (errno.EOPNOTSUPP, 524):
            raise KernelError(
                "cannot end connections to removed endpoints: the kernel has no SOCK_DESTROY",
                "It needs CONFIG_INET_DIAG_DESTROY, and inet_diag's udp_diag for UDP",
            )
        raise KernelError(f"cannot end a connection to {sock.peer[0]}: {os.strerror(status)}")

    def _send(self, question: bytes) -> None:
        try:
            self._sock.send(question)
        except OSError as error:
            raise KernelError(f"cannot ask for sockets: {cause_of(error)}") from None

    def _heard(self, most: int) -> bytes:
        try:
            return self._sock.recv(most)
        except OSError as error:  # TimeoutError among them
            raise KernelError(f"cannot list sockets: {cause_of(error)}") from None

    def _answers(self, protocol: int) -> Iterator[Socket]:
        while True:
            for one in messages(self._heard(1 << 18)):
                if not one.ends:
                    yield _parse(protocol, bytes(one.body))
                elif one.kind == DONE or one.status == errno.ENOENT:  # no udp_diag, no IPv6: nothing to list
                    return
                else:
                    raise KernelError(f"cannot list sockets: {os.strerror(one.status)}")


def _parse(protocol: int, body: bytes) -> Socket:
    family, *_ = _HEAD.unpack_from(body)
    raw = body[_HEAD.size : _HEAD.size + _ID.size]
    from_port, to_port, source, peer, _, cookie = _ID.unpack(raw)
    return Socket(
        family,
        protocol,
        (_address(family, source), int.from_bytes(from_port, "big")),
        (_address(family, peer), int.from_bytes(to_port, "big")),
        cookie,
        raw,
    )


def _address(family: int, data: bytes) -> IPAddress:
    """IPv4 of a dual-stack socket is IPv4 here."""
    if family == socket.AF_INET:
        return IPv4Address(data[:4])
    six = IPv6Address(data)
    return six.ipv4_mapped or six
