"""Who may work when: one verb an attachment at a time, any number of attachments at once, and mending alone.

A runtime may send a DEL while the ADD it gave up on still runs; the DEL must see all of the ADD or nothing.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cni.protocol import Attachment


class Locks:
    """For worker threads: waiting blocks the thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy: set[Attachment] = set()
        self._exclusive = False

    @contextmanager
    def held(self, attachment: Attachment) -> Iterator[None]:
        """Nobody else works on ``attachment`` inside the block, and nobody mends."""
        with self._changed:
            while attachment in self._busy or self._exclusive:
                self._changed.wait()
            self._busy.add(attachment)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(attachment)
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody works on any attachment inside the block; those who began have finished."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive)
            self._exclusive = True
            self._changed.wait_for(lambda: not self._busy)
        try:
            yield
        finally:
            with self._changed:
                self._exclusive = False
                self._changed.notify_all()
