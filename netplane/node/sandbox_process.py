"""A command inside a sandbox, or a container attached to, with its streams as descriptors of ours.

Closing it closes the connection to the sandbox, which kills the command (see `sandbox/loop.py`).
"""

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import orjson

from netplane.node.sandbox_client import RequestRefused, SandboxGone, connect

_SIZE = struct.Struct("HHHH")


class SandboxProcess:
    """``terminal`` is the master side of a terminal, which is then also stdin and stdout."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._open: set[int] = set()
        self.stdin: int | None = None
        self.stdout = -1
        self.stderr: int | None = None
        self._terminal: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; a command that runs is killed."""
        self._connection.close()
        for descriptor in list(self._open):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        if descriptor in self._open:
            self._open.remove(descriptor)
            os.close(descriptor)

    def own(self, descriptor: int) -> int:
        """Close it with this process."""
        os.set_blocking(descriptor, False)
        self._open.add(descriptor)
        return descriptor

    def take_terminal(self, descriptor: int) -> None:
        """The terminal it runs on."""
        self._terminal = self.own(descriptor)

    def close_stdin(self) -> None:
        """All has been said. A terminal is told by the character for it, which is the client's to send."""
        if self.stdin is not None and self.stdin != self._terminal:
            self._close(self.stdin)
        self.stdin = None

    def resize(self, columns: int, rows: int) -> None:
        """Also sends SIGWINCH: the kernel does."""
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, _SIZE.pack(rows, columns, 0, 0))

    async def ended(self) -> int:
        """Its exit code. Raises SandboxGone, RequestRefused."""
        return int((await self.answer())[0]["exitCode"])

    async def send(self, request: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Raises SandboxGone."""
        data = orjson.dumps(request) + b"\n"
        try:
            sent = socket.send_fds(self._connection, [data], list(descriptors))
            await asyncio.get_running_loop().sock_sendall(self._connection, data[sent:])
        except OSError as error:
            raise SandboxGone(f"cannot {request['op']}: {error.strerror}") from None

    async def answer(self) -> tuple[dict[str, Any], list[int]]:
        """The next line, and the descriptors that came with it. Raises SandboxGone, RequestRefused."""
        found: list[int] = []
        while b"\n" not in self._received:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._connection, 65536, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await readable(self._connection.fileno())
                continue
            except OSError as error:
                raise SandboxGone(f"the sandbox does not answer: {error.strerror}") from None
            found += [self.own(descriptor) for descriptor in descriptors]
            self._received += data
            if not data:
                raise SandboxGone("the sandbox ended")
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = orjson.loads(line)
        if not answer.get("ok"):
            raise RequestRefused(str(answer.get("error")))
        return answer, found


async def execute(
    path: Path, container: str, argv: Sequence[str], cgroups: Sequence[int], *, stdin: bool, tty: bool
) -> SandboxProcess:
    """Start a command. Raises SandboxGone; on a terminal, RequestRefused when it cannot be run."""
    process = SandboxProcess(connect(path))
    try:
        request = {"op": "exec", "name": container, "argv": list(argv), "tty": tty}
        if tty:
            await process.send(request, cgroups)
            _, (terminal,) = await process.answer()
            process.take_terminal(terminal)
            process.stdout = terminal
            process.stdin = terminal if stdin else None
        else:
            await _start_on_pipes(process, request, cgroups, stdin=stdin)
    except BaseException:
        process.close()
        raise
    return process


async def _start_on_pipes(
    process: SandboxProcess, request: dict[str, Any], cgroups: Sequence[int], *, stdin: bool
) -> None:
    theirs: list[int] = []
    try:
        if stdin:
            read, write = os.pipe()
            theirs.append(read)
            process.stdin = process.own(write)
        else:
            theirs.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        _make_outputs(process, theirs)
        await process.send(request, [*theirs, *cgroups])
    finally:
        for descriptor in theirs:
            os.close(descriptor)


def _make_outputs(process: SandboxProcess, theirs: list[int]) -> None:
    out_read, out_write = os.pipe()
    theirs.append(out_write)
    process.stdout = process.own(out_read)
    err_read, err_write = os.pipe()
    theirs.append(err_write)
    process.stderr = process.own(err_read)


async def attach(path: Path, container: str, *, stdin: bool) -> SandboxProcess:
    """A running container's output from now on, and its stdin. Raises SandboxGone, RequestRefused."""
    process = SandboxProcess(connect(path))
    theirs: list[int] = []
    try:
        _make_outputs(process, theirs)
        await process.send({"op": "attach", "name": container, "stdin": stdin}, theirs)
        answer, given = await process.answer()
        if given and answer["tty"]:
            process.take_terminal(given[0])
        if given and stdin:
            process.stdin = given[0]
    except BaseException:
        process.close()
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    return process


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or an end."""
    loop = asyncio.get_running_loop()
    await _ready(loop.add_reader, loop.remove_reader, descriptor)


async def writable(descriptor: int) -> None:
    """Wait until there is room."""
    loop = asyncio.get_running_loop()
    await _ready(loop.add_writer, loop.remove_writer, descriptor)


async def _ready(
    add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], object], descriptor: int
) -> None:
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)
