"""The daemon's side of the socket: see ``executable`` for the bytes. Blocking, for worker threads."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from netplane.errors import PeerError

_HEADER = re.compile(rb"NPCNI1 ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_HEADER_BYTES = 25
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
    header, descriptors, _, _ = socket.recv_fds(connection, _HEADER_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
    netns = descriptors[0] if descriptors else None
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    try:
        header += _exactly(connection, _HEADER_BYTES - len(header))
        match = _HEADER.fullmatch(header)
        if match is None:
            raise PeerError("cannot read a CNI call: it does not begin as one")
        sizes = [int(size, 16) for size in match.groups()]
        if sizes[0] > ENVIRONMENT_LIMIT or sizes[1] > STDIN_LIMIT:
            raise PeerError(f"cannot read a CNI call: {sizes[0]} and {sizes[1]} bytes are too many")
        variables = os.fsdecode(_exactly(connection, sizes[0]))
        pairs = (pair.partition("=") for pair in variables.split("\0") if pair)
        return Call({key: value for key, _, value in pairs}, _exactly(connection, sizes[1]), netns)
    except BaseException:
        if netns is not None:
            os.close(netns)
        raise


def reply(connection: socket.socket, status: int, stdout: bytes) -> None:
    """Answer, and end the stream. Raises OSError where the peer went away."""
    connection.sendall(b"%d\n%b" % (status, stdout))
    connection.shutdown(socket.SHUT_WR)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise PeerError("cannot read a CNI call: it ends too early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
