"""What the kernel says of a descriptor that another process left, without a word from that process."""

import ctypes
import errno
import os
import resource
import select
import socket
import stat
import struct
from array import array
from fcntl import ioctl
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from proxy.model import Endpoint, Frontend, IPAddress, Protocol
from proxy.userspace.workers.reckoning import Side

UNREAD, UNSENT = 0x541B, 0x5411  # SIOCINQ (also FIONREAD of a pipe), SIOCOUTQ: tcp(7)
INFO_SIZE = 136  # struct tcp_info up to tcpi_bytes_received (linux/tcp.h)
INTEGER = struct.Struct("i")
ACKED_AND_RECEIVED = struct.Struct("=QQ")
ACKED_AT = 120
POLLFD = 8  # bytes of a struct pollfd: int fd, short events, short revents
TRIES = 100  # readings of a socket that changes all the time

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.poll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int)
_libc.connect.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_NOWHERE = bytes(16)  # a struct sockaddr of family AF_UNSPEC: connect(2) dissolves the association


def table() -> tuple[set[int], set[int]]:
    """All open descriptors of this process, and those at which something waits: poll(2) says both by one call."""
    status = Path("/proc/self/status").read_text()
    size = int(status.partition("FDSize:")[2].split(maxsplit=1)[0])
    size = min(size, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    asked = array("i", bytes(size * POLLFD))
    asked[::2] = array("i", range(size))
    fields = memoryview(asked).cast("B").cast("h")
    fields[2::4] = array("h", [select.POLLIN | select.POLLPRI | select.POLLRDHUP]) * size
    if _libc.poll(asked.buffer_info()[0], size, 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "poll")
    answers = fields[3::4].tolist()
    ready = {fd for fd, events in enumerate(answers) if events and events != select.POLLNVAL}
    return {fd for fd, events in enumerate(answers) if events != select.POLLNVAL}, ready


def reading(fd: int) -> Side:
    """What was counted of a TCP socket, all at one moment. Raises OSError."""
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        unread = 0
        for _ in range(TRIES):
            unsent = number(fd, UNSENT)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_SIZE)
            before, unread = unread, number(fd, UNREAD)
            # Nobody reads or writes here. So none unread after it means none before, and none unsent before it
            # means none after; else the numbers must be the same before and after.
            if unread == before and (not unsent or unsent == number(fd, UNSENT)):
                acked, received = ACKED_AND_RECEIVED.unpack_from(info, ACKED_AT)
                return Side(info[0], received=received, unread=unread, acked=acked, unacked=unsent)
    finally:
        sock.detach()
    raise OSError(errno.EAGAIN, "the socket does not come to rest")


def number(fd: int, request: int) -> int:
    """What an ioctl(2) has to say in one integer. Raises OSError."""
    (found,) = INTEGER.unpack(ioctl(fd, request, b"\0\0\0\0"))
    return int(found)


def frontend(client: int) -> Frontend:
    """By which frontend an accepted client came. Raises OSError."""
    return _frontend_at(*name(client, peer=False))


def endpoint(fd: int) -> Endpoint:
    """Where a socket leads. Raises OSError."""
    return _endpoint_at(*name(fd, peer=True))


# Thousands of flows share few of these, and turning text into addresses is what costs most.
@lru_cache(4096)
def _frontend_at(address: str, port: int) -> Frontend:
    return Frontend(_address(address), port, Protocol.TCP)


@lru_cache(4096)
def _endpoint_at(address: str, port: int) -> Endpoint:
    return Endpoint(_address(address), port)


def _address(text: str) -> IPAddress:
    return ip_address(text.partition("%")[0])


def name(fd: int, *, peer: bool) -> tuple[str, int]:
    """One end's address and port. Raises OSError."""
    # The longer address has room for the shorter one; asking the family first would be three calls more.
    sock = socket.SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, fd)
    try:
        address, port = (sock.getpeername() if peer else sock.getsockname())[:2]
    finally:
        sock.detach()
    return address, port


def is_connection(fd: int) -> bool:
    """Whether it is a TCP socket that does not listen. Raises OSError."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        return not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        sock.detach()


def reset(fd: int) -> None:
    """End a connection by RST, now, whoever else has a copy of the descriptor (tcp_disconnect in net/ipv4/tcp.c)."""
    _libc.connect(fd, _NOWHERE, len(_NOWHERE))
    os.close(fd)
