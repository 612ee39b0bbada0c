"""What the API server asks of a store. Laws that every store keeps:

1. One revision for all keys. It grows by one with every commit and is never given twice, restarts included.
2. A commit is all or nothing, and durable when it returns.
3. A subscriber has been told of a commit, in revision order, before that commit returns to its caller.
4. What happened after revision N can be replayed, and the keys as they were at N can be listed, until N is
   compacted; from then on both raise `Compacted`, and never give a part of the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from netplane.errors import KernelError

RESTORE = "Restore a backup: netplane controlplane restore (docs/recovery.md)."


class StoreError(KernelError):
    """The store cannot do its work (no space, no permission, damage). Nothing of the commit was kept."""


class NoSpace(StoreError):
    """The disk is full. Reading goes on, and writing works again when there is room."""


class Busy(StoreError):
    """Not now: the store closes, or another program has it locked."""


class Unsure(StoreError):
    """The disk did not say whether it has what it was given. Only a new start can tell, so nothing more is written."""


class Stale(Exception):
    """A commit expected a key at another revision than it has; nothing was written."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        super().__init__(f"{key} is at revision {found}, not {expected}")
        self.key, self.expected, self.found = key, expected, found


class Compacted(Exception):
    """The history asked for is gone; ``oldest`` is the first revision that can be continued from."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"revision {asked} is compacted, the oldest is {oldest}")
        self.asked, self.oldest = asked, oldest


class Future(Exception):
    """A revision that the store has not reached."""

    def __init__(self, asked: int, current: int) -> None:
        super().__init__(f"revision {asked} is not reached yet, the newest is {current}")
        self.asked, self.current = asked, current


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key. ``expected`` is the revision it must be at: 0 for absent, None for any."""

    key: str
    value: bytes
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; removing an absent key expects it to be there, so it is `Stale`."""

    key: str
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Write nothing, but let the commit fail unless the key is at this revision (0: absent)."""

    key: str
    expected: int


Operation = Put | Delete | Check


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value and the revision that wrote it."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """One key's change. ``value`` is None for a removal, ``previous`` is None for a creation."""

    revision: int
    key: str
    value: bytes | None
    previous: bytes | None
    previous_revision: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the keys as they stood at ``revision``, in key order, and how many follow it."""

    entries: tuple[Entry, ...]
    revision: int
    remaining: int = 0


Subscriber = Callable[[Sequence[Event]], None]


class Store(Protocol):
    """Keys are paths such as ``/apps/deployments/default/web``; a prefix ends with ``/``."""

    @property
    def revision(self) -> int:
        """The newest revision that subscribers have been told of."""

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call this in the event loop with each batch of changes from now on. It must not raise."""

    async def commit(self, *operations: Operation) -> int:
        """Apply all of them at one new revision. Raises Stale or StoreError; then nothing happened."""

    async def page(self, prefix: str, *, revision: int = 0, after: str = "", limit: int = 0) -> Page:
        """Keys under a prefix, later than ``after``; revision 0 is now, limit 0 is all.

        Raises Compacted, Future or StoreError.
        """

    async def changes(self, prefix: str, since: int) -> list[Event]:
        """Everything that happened under a prefix after ``since``. Raises Compacted, Future, StoreError."""

    async def compact(self, revision: int) -> None:
        """Forget the history up to and including a revision, never a current value."""

    async def close(self) -> None:
        """Finish what was begun, then let go of the file."""
