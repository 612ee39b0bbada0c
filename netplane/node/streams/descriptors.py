"""Reading and writing descriptors with nothing in between: no buffer of ours, so no bound to keep."""

import asyncio
import errno
import os

from netplane.node.sandbox_process import writable

CHUNK = 32 * 1024


class Source:
    """A pipe or a terminal that is read. ``finish``: whoever wrote has ended, so what is there now is all."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._finished = False
        self._ready = asyncio.Event()

    def finish(self) -> None:
        """What it left running may hold the other side for ever: do not wait for its end."""
        self._finished = True
        self._ready.set()

    async def read(self) -> bytes:
        """What has come; empty at the end."""
        while True:
            self._ready.clear()
            finished = self._finished  # asked first: what was written before is read below
            try:
                return os.read(self._descriptor, CHUNK)
            except BlockingIOError:
                if finished:
                    return b""
            except OSError as error:
                if error.errno != errno.EIO:  # which is how a terminal says that nobody is on its other side
                    raise
                return b""
            await self._wait()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._descriptor, self._ready.set)
        try:
            await self._ready.wait()
        finally:
            loop.remove_reader(self._descriptor)


async def write(descriptor: int, data: bytes) -> bool:
    """All of it, as fast as it is taken. False when nobody reads any more."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            await writable(descriptor)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return False
    return True
