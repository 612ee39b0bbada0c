"""The system calls that every connection takes, on bare descriptors, which Python offers on socket objects only.

Why: making such an object around a descriptor costs a getsockname(2) each time, and accept(2) through one costs an
ioctl(2) and the peer's address as text. ``syscalls.c`` is the same without any object, and is what runs where it was
compiled; a contract test holds both to one meaning. No call blocks, so the interpreter's lock is kept.
"""

import ctypes
import errno
import os
import socket
import sys
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

CHUNK: Final = 32 * 1024  # one read; it fits into a pipe of the default size
IP_TRANSPARENT = 19  # ip(7)
IPV6_TRANSPARENT = 75  # linux/in6.h

_libc = ctypes.PyDLL(None, use_errno=True)
_shutdown = _libc.shutdown
_shutdown.argtypes = (ctypes.c_int, ctypes.c_int)
_accept4 = _libc.accept4
_accept4.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_send = _libc.send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_MORE = socket.MSG_MORE
_SIZE = 28  # struct sockaddr_in6; a sockaddr_in is shorter
_PEER = ctypes.create_string_buffer(_SIZE)
_SEEN = memoryview(_PEER).cast("B")
_LENGTH = ctypes.c_uint32(_SIZE)
_CONNECTING = (errno.EINPROGRESS, 0)
# The kernel's own type: the class around it in the socket module costs a microsecond more a socket.
_Socket = socket.SocketType


def accept(listener: int) -> tuple[int, bytes] | None:
    """A client's non-blocking socket and its packed address; None where nobody waits. Raises OSError."""
    _LENGTH.value = _SIZE
    fd = _accept4(listener, _PEER, ctypes.addressof(_LENGTH), _FLAGS)
    if fd < 0:
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            return None
        raise OSError(number, os.strerror(number))
    family = int.from_bytes(_SEEN[:2], sys.byteorder)  # sa_family_t
    return fd, bytes(_SEEN[4:8] if family == socket.AF_INET else _SEEN[8:24])


def dial_as(source: bytes, source_port: int, address: bytes, port: int, early: bool) -> int:
    """A non-blocking socket that is connecting from somebody else's address and this very port. Raises OSError.

    Addresses are packed. ``early``: data follows at once, and carries the handshake's last acknowledgement.
    """
    family = socket.AF_INET if len(source) == 4 else socket.AF_INET6
    sock = _Socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        # Two connections to different endpoints may share a port: connect(2) checks the whole 4-tuple.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_text(source), source_port))
        if early:
            # tcp(7). Of the handshake only: the kernel begins anew with quick acknowledgements once it is over.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        failure = sock.connect_ex((_text(address), port))
        if failure not in _CONNECTING:
            raise OSError(failure, os.strerror(failure))
    except OSError:
        sock.close()
        raise
    return sock.detach()


@lru_cache(maxsize=65536)
def _text(packed: bytes) -> str:
    return str(ip_address(packed))


def read(fd: int) -> bytes | None:
    """What there is to read, ``CHUNK`` bytes at most; b"" at the end, None where nothing is. Raises OSError."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None


def write(fd: int, data: bytes) -> int:
    """How much of it was taken. Raises OSError."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0


def move(source: int, sink: int, ending: bool) -> int | tuple[bytes, int, int]:
    """Read as ``read`` does, and write it all to ``sink``: how much; 0 at the end, -1 where nothing is to be read.

    ``ending``: the source will send no more; then its FIN can go in the packet of its last bytes. Where the sink
    did not take everything: what was read, how much of it was taken, and the number of the sink's error or 0.
    Raises OSError where the source fails.
    """
    data = read(source)
    if not data:
        return -1 if data is None else 0
    size = len(data)
    sent: int = _send(sink, data, size, _MORE if ending and size < CHUNK else 0)
    if sent == size:
        return size
    number = ctypes.get_errno() if sent < 0 else 0
    return data, max(sent, 0), 0 if number == errno.EAGAIN else number


def end_writing(fd: int) -> None:
    """shutdown(2) for writing; a peer that has gone already is told nothing."""
    _shutdown(fd, socket.SHUT_WR)
