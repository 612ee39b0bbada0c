"""Whoever watches a container's output as it comes, and how long a container waits for one who does not read.

A watcher gets every byte or is cut off: its pipe full, the container's output waits for it, as a terminal's does.
STALL_SECONDS without a byte taken, and the container goes on without this watcher. The log misses nothing.
"""

import os
import time

STALL_SECONDS = 10.0


class Sink:
    """One watcher's pipe. ``connection`` is what it was attached through."""

    __slots__ = ("connection", "fd", "finishing", "pending", "progress")

    def __init__(self, fd: int, connection: object) -> None:
        self.fd, self.connection = fd, connection
        self.pending = b""
        self.progress = 0.0
        self.finishing = False
        os.set_blocking(fd, False)

    def offer(self, data: bytes) -> bool:
        """Take more bytes. False when nobody reads any more."""
        if not self.pending:
            self.progress = time.monotonic()
        self.pending += data
        return self.flush()

    def flush(self) -> bool:
        """Write what the pipe has room for. False when nobody reads any more, or all has been said."""
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.fd, self.pending) :]
                self.progress = time.monotonic()
        except BlockingIOError:
            return True
        except OSError:
            return False
        return not self.finishing

    @property
    def stalled(self) -> bool:
        """Whether it holds the container up for too long."""
        return bool(self.pending) and time.monotonic() - self.progress > STALL_SECONDS
