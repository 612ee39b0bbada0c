"""Pipes that hold what a sink has not taken yet, and carry bulk flows through splice(2).

Why a pool: a pipe costs three system calls to make and is needed for moments only. What is in use is entered in
the ledger, by the socket whose bytes it holds.

Why one to spare: what has been read and is not taken must be in a pipe before the turn is over. Where no descriptor is
left for one, the one to spare is there for whoever has read already; while it is away, nobody reads what is not passed
on for certain (``moving``).
"""

import fcntl
import os
from contextlib import suppress
from typing import Final

from proxy.userspace.streams.ledger import LINK, Ledger

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
    """Empty pipes, ready for use. ``open`` counts those that exist, in use or not, without the one to spare.

    ``lacking``: that one is in use, and there was no other when ``has_spare`` last looked.
    """

    def __init__(self, ledger: Ledger, kept: int = KEPT) -> None:
        self._free: list[Pipe] = []
        self._kept = kept
        self._entries = ledger.pipes
        self._spare: Pipe | None = None
        self.open = 0
        self.lacking = True
        self.has_spare()

    def take(self, fd: int) -> Pipe:
        """An empty pipe for what is read from ``fd``. Raises OSError (EMFILE) where no descriptor is left."""
        pipe = self._free.pop() if self._free else self._make()
        self._entries[fd] = pipe.reader * LINK | pipe.writer
        return pipe

    def take_any(self, fd: int) -> Pipe:
        """As ``take``, or else the one to spare: what was read from ``fd`` has nowhere else to be."""
        try:
            return self.take(fd)
        except OSError:
            pipe = self._spare
            if pipe is None:
                raise
        self._spare, self.lacking = None, True
        self.open += 1
        self._entries[fd] = pipe.reader * LINK | pipe.writer
        return pipe

    def has_spare(self) -> bool:
        """Whether there is one to spare, now or again."""
        if self._spare is None:
            with suppress(OSError):
                self._set_aside(self._free.pop() if self._free else self._make())
        return not self.lacking

    def adopt(self, fd: int, pipe: Pipe) -> None:
        """Count a pipe of another process, which holds what was read from ``fd``."""
        self.open += 1
        self._entries[fd] = pipe.reader * LINK | pipe.writer

    def give(self, fd: int, pipe: Pipe) -> None:
        """Take the pipe of ``fd`` back; one that still holds bytes is thrown away with them."""
        self._entries[fd] = 0
        if pipe.held != 0 or (not self.lacking and len(self._free) >= self._kept):
            pipe.close()
            self.open -= 1
        elif self.lacking:
            self._set_aside(pipe)
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close those that are not in use."""
        if self._spare is not None:
            self._spare.close()
            self._spare, self.lacking = None, True
        while self._free:
            self._free.pop().close()
            self.open -= 1

    def _make(self) -> Pipe:
        pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        self.open += 1
        return pipe

    def _set_aside(self, pipe: Pipe) -> None:
        self._spare, self.lacking = pipe, False
        self.open -= 1
