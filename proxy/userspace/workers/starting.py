"""How the proxy gets a keeper: it asks the zygote, and starts another zygote where that one was lost."""

import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict

from netplane.errors import KernelError
from proxy.userspace.workers import channel
from proxy.userspace.workers.channel import Message
from proxy.userspace.workers.process import Options

log = logging.getLogger(__name__)

ZYGOTE = "proxy.userspace.workers.zygote"
ANSWER_SECONDS = (
    30.0  # the first answer comes when all is imported, perhaps on a machine that has just booted
)
TRIES = 2


class Starter:
    """A proxy's way to keepers, who are children of the proxy. All run in the network namespace of the first call."""

    def __init__(self) -> None:
        self._zygote: tuple[int, socket.socket] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def start(self, theirs: socket.socket, options: Options) -> int:
        """A keeper with its end of a channel; its pid. Raises KernelError."""
        async with self._one_at_a_time:
            for _ in range(TRIES):
                answer = await self._ask(theirs, options)
                if "pid" in answer:
                    return int(answer["pid"])
                if "error" in answer:
                    raise KernelError(f"cannot start a worker: {answer['error']}")
                self.close()
        raise KernelError(f"cannot start a worker: the process to copy has ended {TRIES} times")

    def close(self) -> None:
        """End the zygote; the keepers stay."""
        if self._zygote is None:
            return
        pid, sock = self._zygote
        self._zygote = None
        sock.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)  # it may be stopped, or busy
            os.waitpid(pid, 0)

    async def _ask(self, theirs: socket.socket, options: Options) -> Message:
        """What the zygote says; nothing where it is no more, or says nothing. Raises KernelError."""
        loop = asyncio.get_running_loop()
        sock = self._sock()
        heard = asyncio.Event()
        try:
            channel.send(sock, asdict(options), [theirs.fileno()])
            loop.add_reader(sock, heard.set)
            async with asyncio.timeout(ANSWER_SECONDS):
                await heard.wait()
            answer = channel.receive(sock)
        except (OSError, TimeoutError) as error:
            log.warning("the process to copy does not answer: %s", error or "no time")
            return {}
        finally:
            loop.remove_reader(sock)
        return answer[0] if answer is not None else {}

    def _sock(self) -> socket.socket:
        if self._zygote is None:
            ours, theirs = channel.pair()
            with theirs:
                try:
                    self._zygote = _spawn(theirs), ours
                except OSError as error:
                    ours.close()
                    raise KernelError(f"cannot start a worker: {error.strerror}") from None
        return self._zygote[1]


def _spawn(theirs: socket.socket) -> int:
    """A zygote with its end of the channel, in this thread's network namespace. Raises OSError."""
    theirs.set_inheritable(True)
    program = [sys.executable, "-P", "-m", ZYGOTE, str(theirs.fileno())]
    default = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    return os.posix_spawn(sys.executable, program, os.environ, setsigmask=(), setsigdef=default)
