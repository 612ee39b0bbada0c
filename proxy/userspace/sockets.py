"""What is asked of a bare descriptor now and then: options and facts for which Python has socket objects only.

Why not with the calls of ``syscalls``: no short connection comes here but in a shortage, so the object that each call
makes and gives up again costs nobody anything.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close(2) sends RST
INFO_SIZE = 60
LAST_SENT, LAST_RECEIVED = 44, 52  # tcpi_last_data_sent, tcpi_last_data_recv (linux/tcp.h), milliseconds


def settle(fd: int) -> None:
    """What a connection needs that lives on: small messages go at once, and a peer's death is noticed.

    Not done at the start: the first message waits for nothing, and many connections have only that one.
    """
    with _around(fd) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:
            pass  # the connection is over already; reading it tells how


def reset_at_close(fd: int) -> None:
    """From now on close(2) sends RST. Raises OSError."""
    with _around(fd) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def error_of(fd: int) -> int:
    """The error that waits at a socket, or 0. Raises OSError."""
    with _around(fd) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def is_connected(fd: int) -> bool:
    """Whether its connect(2) has succeeded."""
    with _around(fd) as sock:
        try:
            sock.getpeername()
        except OSError:
            return False
    return True


def silent_for(fd: int) -> int:
    """Milliseconds since the last byte went either way. Raises OSError."""
    with _around(fd) as sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_SIZE)
    last: list[int] = [struct.unpack_from("I", info, at)[0] for at in (LAST_SENT, LAST_RECEIVED)]
    return min(last)


def peek(fd: int, most: int) -> bytes | None:
    """What there is to read, and stays unread; b"" at the end, None where nothing is. Raises OSError."""
    with _around(fd) as sock:
        try:
            return sock.recv(most, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None


@contextmanager
def _around(fd: int) -> Iterator[socket.SocketType]:
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        yield sock
    finally:
        sock.detach()
