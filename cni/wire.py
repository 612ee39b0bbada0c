"""The daemon's side of the socket: see ``executable`` for the bytes. Blocking, for worker threads."""

import array
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netplane.errors import PeerError

_HEADER = re.compile(rb"NPCNI1 ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_HEADER_BYTES = 25
_FIRST_BYTES = 1 << 14  # most requests are one read
_RIGHTS = socket.CMSG_SPACE(4 * 4)  # at most four descriptors, of which one is kept
ENVIRONMENT_LIMIT = 1 << 16
STDIN_LIMIT = 1 << 24


@dataclass(frozen=True, slots=True)
class Call:
    """What the executable was run with; ``netns`` is CNI_NETNS opened, and the receiver's to close."""

    environment: Mapping[str, str]
    stdin: bytes
    netns: int | None = None


def receive(connection: socket.socket) -> Call:
    """Read one call. Raises PeerError where it is not one, OSError where the peer goes away."""
    data, ancillary, _, _ = connection.recvmsg(_FIRST_BYTES, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
    netns = _first_descriptor(ancillary)
    try:
        if len(data) < _HEADER_BYTES:
            data += _exactly(connection, _HEADER_BYTES - len(data))
        match = _HEADER.match(data)
        if match is None:
            raise PeerError("cannot read a CNI call: it does not begin as one")
        variables, stdin = int(match[1], 16), int(match[2], 16)
        if variables > ENVIRONMENT_LIMIT or stdin > STDIN_LIMIT:
            raise PeerError(f"cannot read a CNI call: {variables} and {stdin} bytes are too many")
        middle = _HEADER_BYTES + variables
        if len(data) < middle + stdin:
            data += _exactly(connection, middle + stdin - len(data))
        pairs = (pair.partition("=") for pair in os.fsdecode(data[_HEADER_BYTES:middle]).split("\0"))
        environment = {key: value for key, _, value in pairs if key}
        return Call(environment, data[middle : middle + stdin], netns)
    except BaseException:
        if netns is not None:
            os.close(netns)
        raise


def reply(connection: socket.socket, status: int, stdout: bytes) -> None:
    """Answer; closing ends the stream. Raises OSError where the peer went away."""
    connection.sendall(b"%d\n%b" % (status, stdout))


def _first_descriptor(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    """The first of those that came with a message; the others are closed."""
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    return descriptors[0] if descriptors else None


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise PeerError("cannot read a CNI call: it ends too early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
