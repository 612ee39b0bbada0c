"""Pipes that hold what a sink has not taken yet, and carry bulk flows through splice(2).

Why a pool: a pipe costs three system calls to make and is needed for moments only. What is in use is entered in
the ledger, by the socket whose bytes it holds.
"""

import fcntl
import os
from contextlib import suppress
from typing import Final

from proxy.userspace.ledger import LINK, Ledger

F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ; fcntl(2)
PIPE_BYTES: Final = 512 * 1024  # more costs less a byte, and has the kernel grow buffers beyond reason
KEPT: Final = 64


class Pipe:
    """One pipe's two ends. ``held`` is the number of bytes in it."""

    __slots__ = ("_wide", "held", "reader", "writer")

    def __init__(self, reader: int, writer: int, held: int = 0) -> None:
        self.reader = reader
        self.writer = writer
        self.held = held
        self._wide = False

    def widen(self) -> None:
        """Make room for ``PIPE_BYTES``: the kernel's 64 KiB are enough for what one read leaves, not for bulk."""
        if not self._wide:
            self._wide = True
            with suppress(OSError):  # not allowed: then in more steps
                fcntl.fcntl(self.writer, F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        """Give both descriptors back."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Empty pipes, ready for use. ``open`` counts the pipes that exist, in use or not."""

    def __init__(self, ledger: Ledger, kept: int = KEPT) -> None:
        self._free: list[Pipe] = []
        self._kept = kept
        self._entries = ledger.pipes
        self.open = 0

    def take(self, fd: int) -> Pipe:
        """An empty pipe for what is read from ``fd``. Raises OSError (EMFILE) where no descriptor is left."""
        if self._free:
            pipe = self._free.pop()
        else:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
            self.open += 1
        self._entries[fd] = pipe.reader * LINK | pipe.writer
        return pipe

    def adopt(self, fd: int, pipe: Pipe) -> None:
        """Count a pipe of another process, which holds what was read from ``fd``."""
        self.open += 1
        self._entries[fd] = pipe.reader * LINK | pipe.writer

    def give(self, fd: int, pipe: Pipe) -> None:
        """Take the pipe of ``fd`` back; one that still holds bytes is thrown away with them."""
        self._entries[fd] = 0
        if pipe.held == 0 and len(self._free) < self._kept:
            self._free.append(pipe)
            return
        pipe.close()
        self.open -= 1

    def close(self) -> None:
        """Close the free ones."""
        while self._free:
            self._free.pop().close()
            self.open -= 1
