"""Pipes that hold what a sink has not taken yet, and carry bulk flows through splice(2).

Why a pool: a pipe costs three system calls to make and is needed for moments only.
"""

import fcntl
import os
from contextlib import suppress

F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ; fcntl(2)
PIPE_BYTES = 256 * 1024
KEPT = 64


class Pipe:
    """One pipe's two ends. ``held`` is the number of bytes in it."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        with suppress(OSError):  # the default 64 KiB work as well, in more steps
            fcntl.fcntl(self.writer, F_SETPIPE_SZ, PIPE_BYTES)

    @classmethod
    def of(cls, reader: int, writer: int, held: int) -> "Pipe":
        """A pipe that another process made."""
        pipe = cls.__new__(cls)
        pipe.reader, pipe.writer, pipe.held = reader, writer, held
        return pipe

    def close(self) -> None:
        """Give both descriptors back."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Empty pipes, ready for use. ``open`` counts the pipes that exist, in use or not."""

    def __init__(self, kept: int = KEPT) -> None:
        self._free: list[Pipe] = []
        self._kept = kept
        self.open = 0

    def take(self) -> Pipe:
        """An empty pipe. Raises OSError (EMFILE) where no descriptor is left."""
        if self._free:
            return self._free.pop()
        pipe = Pipe()
        self.open += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take a pipe back; one that still holds bytes is thrown away with them."""
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
