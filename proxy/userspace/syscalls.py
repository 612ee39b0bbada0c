"""Two system calls on bare descriptors, which Python offers on socket objects only.

Why: making such an object around a descriptor costs a getsockname(2) each time, and accept(2) through one
costs an ioctl(2) and the peer's address as text; together 4 of the 26 calls that a short connection takes.
Neither call blocks, so the interpreter's lock is kept.
"""

import ctypes
import errno
import os
import socket

_libc = ctypes.PyDLL(None, use_errno=True)
_shutdown = _libc.shutdown
_shutdown.argtypes = (ctypes.c_int, ctypes.c_int)
_accept4 = _libc.accept4
_accept4.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_send = _libc.send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_recv = _libc.recv
_recv.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_FIRST_SIZE = 4096
_FIRST = ctypes.create_string_buffer(_FIRST_SIZE)
_SIZE = 28  # struct sockaddr_in6; a sockaddr_in is shorter


def end_writing(fd: int) -> None:
    """shutdown(2) for writing; a peer that has gone already is told nothing."""
    _shutdown(fd, socket.SHUT_WR)


def send_more(fd: int, data: bytes) -> int:
    """send(2) of what a FIN will follow at once, in the same packet. Raises OSError."""
    sent: int = _send(fd, data, len(data), socket.MSG_MORE)
    if sent < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return sent


def read_early(fd: int) -> bytes:
    """What a client has sent by the time it is accepted; nothing where that is nothing, or no more."""
    size: int = _recv(fd, _FIRST, _FIRST_SIZE, 0)
    return ctypes.string_at(_FIRST, size) if size > 0 else b""


class Acceptor:
    """accept4(2) into one buffer."""

    __slots__ = ("_address", "_length", "_view")

    def __init__(self) -> None:
        buffer = ctypes.create_string_buffer(_SIZE)
        self._view = memoryview(buffer).cast("B")
        self._address = ctypes.addressof(buffer)
        self._length = ctypes.c_uint32(_SIZE)

    def accept(self, listener: int) -> tuple[int, bytes]:
        """A client's non-blocking socket and its packed address. Raises OSError."""
        self._length.value = _SIZE
        fd = _accept4(listener, self._address, ctypes.addressof(self._length), _FLAGS)
        if fd < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EWOULDBLOCK):
                raise BlockingIOError
            raise OSError(number, os.strerror(number))
        view = self._view
        return fd, bytes(view[4:8] if view[0] == socket.AF_INET else view[8:24])
