"""The agent's side of a sandbox's socket: see `sandbox/loop.py` for the protocol."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from netplane.errors import PeerError

ANSWER_SECONDS = 10.0
OUTPUT_LIMIT = 64 * 1024
_CRED = struct.Struct("3i")


class SandboxGone(PeerError):
    """Nobody answers on the sandbox's socket: its PID 1 is dead."""


class RequestRefused(PeerError):
    """The sandbox answered that it could not; the message is its reason."""


def connect(path: Path) -> socket.socket:
    """A non-blocking connection. Raises SandboxGone. A Unix socket connects at once or not at all."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(str(path))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise SandboxGone(f"cannot reach the sandbox at {path}: {error.strerror or error}") from None
    return sock


def peer_pid(sock: socket.socket) -> int:
    """The pid of who listens on the other side, as our PID namespace numbers it."""
    return int(_CRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CRED.size))[0])


async def ask(path: Path, request: dict[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
    """One request and its answer. Raises SandboxGone, RequestRefused; cancelling closes the connection."""
    sock = connect(path)
    loop = asyncio.get_running_loop()
    try:
        data = orjson.dumps(request) + b"\n"
        sent = socket.send_fds(sock, [data], list(descriptors)) if descriptors else 0
        await loop.sock_sendall(sock, data[sent:])
        received = b""
        while not received.endswith(b"\n"):
            chunk = await loop.sock_recv(sock, 65536)
            if not chunk:
                raise SandboxGone(f"cannot {request['op']} in the sandbox at {path}: it ended")
            received += chunk
    except OSError as error:
        raise SandboxGone(f"cannot {request['op']} in the sandbox at {path}: {error.strerror}") from None
    finally:
        sock.close()
    answer: dict[str, Any] = orjson.loads(received)
    if not answer.get("ok"):
        raise RequestRefused(str(answer.get("error")))
    return answer


async def watch(path: Path) -> AsyncGenerator[dict[str, Any], None]:
    """Status objects, now and after every change, until the sandbox ends. Raises SandboxGone at the start only."""
    reader, writer = await asyncio.open_unix_connection(sock=connect(path), limit=2**20)
    try:
        writer.write(b'{"op":"watch"}\n')
        while line := await reader.readline():
            if line.endswith(b"\n"):
                yield orjson.loads(line)
    except OSError:
        return
    finally:
        writer.close()


async def execute(
    path: Path, container: str, argv: Sequence[str], cgroups: Sequence[int]
) -> tuple[int, bytes]:
    """Run a command in a container; its exit code and what it wrote (cut at 64 KiB)."""
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    output = bytearray()
    loop = asyncio.get_running_loop()
    os.set_blocking(read, False)

    def collect() -> None:
        with suppress(BlockingIOError):
            while data := os.read(read, 65536):
                output.extend(data[: max(0, OUTPUT_LIMIT - len(output))])
            loop.remove_reader(read)  # its end: nothing more can come

    loop.add_reader(read, collect)
    try:
        request = {"op": "exec", "name": container, "argv": list(argv)}
        answer = await ask(path, request, [null, write, write, *cgroups])
        # What it left running may hold the pipe for ever, so its end is not waited for.
        collect()
    finally:
        loop.remove_reader(read)
        for descriptor in (read, write, null):
            os.close(descriptor)
    return int(answer["exitCode"]), bytes(output)
