"""One epoll set for all descriptors of the data path; uvloop watches the set itself as a single descriptor.

Why not one reader a descriptor in uvloop: that costs four times the memory and more time an event (measured:
0.44 against 0.07 KiB). The price is one rule: descriptors are closed at the end of a batch only, so that a
number is never used again while events for its former owner are still to be handled.
"""

import logging
import os
import select
from typing import Final

log = logging.getLogger(__name__)


class Watched:
    """What stands behind a descriptor. ``mask`` is what epoll watches for; below zero: not registered."""

    __slots__ = ("fd", "mask")

    fd: int
    mask: int

    def ready(self, events: int) -> None:
        """Handle epoll events."""
        raise NotImplementedError

    def broken(self) -> None:
        """Handling them raised: end what they belong to, or it is all that happens from now on."""
        raise NotImplementedError


BATCH: Final = 256
POLLS: Final = 8  # batches handled before the event loop gets its turn


class Poller:
    """Registration and dispatch. ``fileno`` is readable while any descriptor has events."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._register = self._epoll.register
        self._entries: list[Watched | None] = []  # by descriptor: a quarter of a dict's memory
        self.count = 0
        self._dead: list[int] = []

    def fileno(self) -> int:
        """The descriptor to watch for reading."""
        return self._epoll.fileno()

    def entries(self) -> list[Watched]:
        """All that is watched, at this moment."""
        return [entry for entry in self._entries if entry is not None]

    def add(self, entry: Watched, mask: int) -> None:
        """Begin to watch."""
        fd = entry.fd
        if fd >= len(self._entries):
            self._entries.extend([None] * (fd + 1 - len(self._entries)))
        self._entries[fd] = entry
        self.count += 1
        self._register(fd, mask)
        entry.mask = mask

    def change(self, entry: Watched, mask: int) -> None:
        """Watch for something else; nothing happens where it is so already."""
        if entry.mask != mask:
            self._epoll.modify(entry.fd, mask)
            entry.mask = mask

    def arm(self, entry: Watched) -> None:
        """Be told again of what is there already, after the others have had their turn."""
        self._epoll.modify(entry.fd, entry.mask)

    def forget(self, entry: Watched) -> None:
        """Stop watching; the descriptor stays open and is the caller's."""
        if self._drop(entry):
            self._epoll.unregister(entry.fd)
            entry.mask = -1

    def bury(self, entry: Watched) -> None:
        """Stop watching and close the descriptor, at the end of the batch."""
        self._drop(entry)
        self._dead.append(entry.fd)

    def _drop(self, entry: Watched) -> bool:
        fd = entry.fd
        if fd < len(self._entries) and self._entries[fd] is entry:
            self._entries[fd] = None
            self.count -= 1
            return True
        return False

    def dispatch(self) -> None:
        """Handle what is ready, in a bounded number of batches."""
        entries, poll = self._entries, self._epoll.poll
        for _ in range(POLLS):
            events = poll(0, BATCH)
            if not events:
                return
            for fd, mask in events:
                entry = entries[fd]
                if entry is None:
                    continue
                try:
                    entry.ready(mask)
                except Exception:
                    log.exception("bug in the relay, please report it")
                    entry.broken()
            if self._dead:
                self.flush()

    def flush(self) -> None:
        """Close what was buried. Needed only after burying outside of ``dispatch``."""
        if self._dead:
            dead, self._dead = self._dead, []
            for fd in dead:
                os.close(fd)

    def close(self) -> None:
        """Close the set and all that was buried."""
        self.flush()
        self._epoll.close()
