"""Puts what was written to a file on the disk, beside the work that goes on meanwhile.

A thread of its own waits for the disk, once for all who asked until then. Who must not answer before its writing is
safe asks as soon as it has written, and waits as late as it can.
"""

import os
import threading
from pathlib import Path


class Disk:
    """For many threads. Raises OSError where there is no such file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._refused: tuple[int, OSError] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
        self._thread.start()

    def ask(self) -> int:
        """Have what is written by now put on the disk; the number to wait for."""
        with self._changed:
            self._asked += 1
            number = self._asked
        os.eventfd_write(self._bell, 1)
        return number

    def wait(self, number: int) -> None:
        """Until it is there. Raises OSError where the disk refused."""
        if self._done < number:
            with self._changed:
                self._changed.wait_for(lambda: self._done >= number)
        if self._refused is not None and number <= self._refused[0]:
            raise self._refused[1]

    def close(self) -> None:
        """End, with all done that was asked for."""
        self._closing = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        os.close(self._bell)
        os.close(self._file)

    def _work(self) -> None:
        while not self._closing:
            os.eventfd_read(self._bell)
            asked = self._asked  # before the disk is asked: what is written later may miss it
            try:
                os.fdatasync(self._file)
            except OSError as error:
                self._refused = (asked, error)
            with self._changed:
                self._done = asked
                self._changed.notify_all()
