"""What the proxy and its workers say to each other: JSON and descriptors, on a socket that keeps messages whole.

Why a file in memory for what is long: a socket's buffer would make the sender wait in the midst of a message.
"""

import array
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

SHORT = 16 * 1024  # bytes that go inline
MOST_DESCRIPTORS = 250  # the kernel carries 253 (SCM_MAX_FD)
INLINE, IN_FILE = b"i", b"f"
WHOEVER = 0  # the addressee, else a worker's pid, of what is meant for any worker that hears it
Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends, not blocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def send(sock: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send one message. Raises BlockingIOError where the other side does not keep up, OSError where it is gone."""
    data = orjson.dumps(message)
    if len(data) <= SHORT:
        sock.sendmsg([INLINE, data], _rights(descriptors))
        return
    file = os.memfd_create("message")
    try:
        os.truncate(file, len(data))
        os.pwrite(file, data, 0)
        sock.sendmsg([IN_FILE], _rights([file, *descriptors]))
    finally:
        os.close(file)


class CutShort(Exception):
    """A message was lost, since no descriptor was left for what came with it."""


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, the caller's to close; None at the end.

    Raises BlockingIOError, and CutShort: whoever sent that message gets no answer, and says it again.
    """
    size = array.array("i").itemsize
    space = socket.CMSG_SPACE(253 * size)
    try:
        data, notes, flags, _ = sock.recvmsg(SHORT + 1, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The other side has ended with words of ours unread. That is told once, and before what it said itself.
        data, notes, flags, _ = sock.recvmsg(SHORT + 1, space, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    found = array.array("i")
    for level, kind, note in notes:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(note[: len(note) - len(note) % size])
    descriptors = list(found)
    if flags & socket.MSG_CTRUNC:
        for fd in descriptors:
            os.close(fd)
        raise CutShort("a message was lost: no descriptor is free for what came with it")
    if data[:1] == IN_FILE:
        file = descriptors.pop(0)
        try:
            body = os.pread(file, os.fstat(file).st_size, 0)
        finally:
            os.close(file)
    else:
        body = data[1:]
    message: Message = orjson.loads(body)
    return message, descriptors


def _rights(descriptors: Sequence[int]) -> list[tuple[int, int, "array.array[int]"]]:
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
