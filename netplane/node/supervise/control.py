"""The supervisor's control socket: JSON lines, one request, one answer.

Connecting to it also tells who PID 1 of the node is: SO_PEERCRED gives the pid of the process that
listens, in the asker's own PID namespace, while that process lives. So there are no pid files to go
stale.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from netplane.errors import ConfigError, NetplaneError, PeerError, cause_of

Answer = dict[str, Any]
MAX_LINE = 64 * 1024


def listen(path: Path) -> socket.socket:
    """A stream socket at `path` for this user only; replaces what a dead predecessor left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(64)
    return listener


async def answer(listener: socket.socket, respond: Callable[[Answer], Awaitable[Answer]]) -> asyncio.Server:
    """Serve `respond` on `listener`; an error becomes ``{"ok": false, "error": ...}``, never a silent close."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _respond(line, respond)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the asker went away, or sent a line without end
        finally:
            writer.close()

    return await asyncio.start_unix_server(converse, sock=listener, limit=MAX_LINE)


async def _respond(line: bytes, respond: Callable[[Answer], Awaitable[Answer]]) -> Answer:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            return {"ok": False, "error": "cannot read the request: it is not a JSON object"}
        return {"ok": True, **await respond(request)}
    except json.JSONDecodeError as error:
        return {"ok": False, "error": f"cannot read the request: {error}"}
    except NetplaneError as error:
        return {"ok": False, "error": str(error)}


def ask(path: Path, request: Answer, timeout: float = 5.0) -> Answer:
    """Put one request to the socket at `path`.

    Raises PeerError if nobody listens, if no answer comes in `timeout` seconds, or with the answer's error.
    """
    try:
        with _connect(path, timeout) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply = json.loads(connection.makefile("rb").readline() or b"{}")
    except (OSError, ValueError) as error:
        raise PeerError(f"cannot ask {path} to {request.get('op')}: {cause_of(error)}") from error
    if not reply.get("ok"):
        raise PeerError(str(reply.get("error") or f"cannot ask {path} to {request.get('op')}: no answer"))
    return dict(reply)


def peer_pid(path: Path, timeout: float = 5.0) -> int:
    """The pid, in our PID namespace, of the process that listens at `path`.

    Raises PeerError if nobody listens there, or if it runs in a PID namespace that we cannot see.
    """
    try:
        with _connect(path, timeout) as connection:
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError as error:
        raise PeerError(f"cannot find the process behind {path}: {cause_of(error)}") from error
    pid = int(struct.unpack("3i", raw)[0])
    if pid == 0:
        raise PeerError(f"cannot find the process behind {path}: it is outside our PID namespace")
    return pid


def _connect(path: Path, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout)
        connection.connect(os.fspath(path))
    except PermissionError as error:
        connection.close()
        raise ConfigError(f"cannot connect to {path}: {cause_of(error)}", "Run it with sudo") from None
    except BaseException:
        connection.close()
        raise
    return connection
