"""A TCP connection to a port inside a pod, as seen from inside: 127.0.0.1, then ::1."""

import asyncio
import os
import socket
from contextlib import suppress

from netplane.errors import KernelError, PeerError
from netplane.linux.namespaces import socket_in

CONNECT_SECONDS = 5.0
CHUNK = 32 * 1024
LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class PodConnection:
    """Opened in a network namespace; both directions end on their own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        """What the pod said; empty at its end, also when it was a broken one."""
        try:
            return await self._reader.read(CHUNK)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Waits while the pod does not read. What a pod that has closed would have been told is dropped."""
        with suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    def finish(self) -> None:
        """The client says no more."""
        with suppress(OSError, RuntimeError):
            self._writer.write_eof()

    def abort(self) -> None:
        """At once, whatever is under way."""
        self._writer.transport.abort()


async def connect(netns: str, port: int) -> PodConnection:
    """Raises PeerError saying what each address answered."""
    problems = []
    for family, address in LOOPBACK:
        sock: socket.socket | None = None
        try:
            sock = await asyncio.to_thread(socket_in, netns, family)
            sock.setblocking(False)
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
            return PodConnection(*await asyncio.open_connection(sock=sock, limit=2 * CHUNK))
        except (OSError, TimeoutError, KernelError) as error:
            if sock is not None:
                sock.close()
            problems.append(f"{address}: {_cause(error)}")
        except BaseException:
            if sock is not None:
                sock.close()
            raise
    raise PeerError(f"cannot connect to port {port} inside the pod: {'; '.join(problems)}")


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:  # asyncio words these its own way
        return os.strerror(error.errno)
    return str(error) or "timed out"
