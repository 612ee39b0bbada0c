"""The store of one machine: SQLite in two worker threads, one that writes and one that reads.

Group commit: while the writer's thread waits for the disk, new commits gather, and go into its next
transaction together. Durability costs one fsync a batch, and the event loop never waits for a disk.
"""

import asyncio
import fcntl
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from controlplane.store.contract import Event, Operation, Page, StoreError, Subscriber
from controlplane.store.database import Database, Outcome, make_private


@dataclass(frozen=True, slots=True)
class _Waiting:
    operations: tuple[Operation, ...]
    result: asyncio.Future[int]


class SQLiteStore:
    """`contract.Store` on one file. Owned by one process (an flock) and one event loop."""

    def __init__(self, lock: int, writer: Database, reader: Database, revision: int) -> None:
        self._lock = lock
        self._writer, self._reader = writer, reader
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._revision = revision
        self._subscribers: list[Subscriber] = []
        self._waiting: list[_Waiting] = []
        self._flight: asyncio.Future[list[Outcome]] | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create. Raises StoreError: no space, no permission, damaged, not ours, or in use."""
        return await asyncio.to_thread(cls._open, path)

    @classmethod
    def _open(cls, path: Path) -> Self:
        lock = _lock(path)
        try:
            make_private(path)
            writer = Database(path)
            writer.prepare()
            return cls(lock, writer, Database(path), writer.newest())
        except BaseException:
            os.close(lock)
            raise

    @property
    def revision(self) -> int:
        """The newest revision that subscribers have been told of."""
        return self._revision

    def subscribe(self, subscriber: Subscriber) -> None:
        """See `contract.Store.subscribe`."""
        self._subscribers.append(subscriber)

    async def commit(self, *operations: Operation) -> int:
        """See `contract.Store.commit`."""
        if self._closed:
            raise StoreError("cannot write to the store: it is closed")
        result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(operations, result))
        if self._flight is None:
            self._take_off()
        return await result

    def _take_off(self) -> None:
        """Send everything that waits to the writer's thread, as one transaction."""
        batch, self._waiting = self._waiting, []
        loop = asyncio.get_running_loop()
        operations = [waiting.operations for waiting in batch]
        self._flight = loop.run_in_executor(self._write_thread, self._writer.apply, operations)
        self._flight.add_done_callback(lambda flight: self._land(batch, flight))

    def _land(self, batch: Sequence[_Waiting], flight: asyncio.Future[list[Outcome]]) -> None:
        """Tell the subscribers, then those who committed; and send what gathered meanwhile."""
        self._flight = None
        cancelled = StoreError("cannot write to the store: it is closing")
        error = cancelled if flight.cancelled() else flight.exception()
        if error is not None:
            for waiting in batch:
                _fail(waiting, error)
        else:
            self._publish([event for outcome in flight.result() for event in outcome.events])
            for waiting, outcome in zip(batch, flight.result(), strict=True):
                if outcome.stale is not None:
                    _fail(waiting, outcome.stale)
                elif not waiting.result.done():
                    waiting.result.set_result(outcome.revision)
        if self._waiting:
            self._take_off()

    def _publish(self, events: list[Event]) -> None:
        if not events:
            return
        self._revision = events[-1].revision
        for subscriber in self._subscribers:
            subscriber(events)

    async def page(self, prefix: str, *, revision: int = 0, after: str = "", limit: int = 0) -> Page:
        """See `contract.Store.page`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._read_thread, self._reader.page, prefix, revision, after, limit
        )

    async def changes(self, prefix: str, since: int) -> list[Event]:
        """See `contract.Store.changes`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_thread, self._reader.changes, prefix, since)

    async def compact(self, revision: int) -> None:
        """See `contract.Store.compact`."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._write_thread, self._writer.compact, revision)

    async def close(self) -> None:
        """See `contract.Store.close`."""
        if self._closed:
            return
        self._closed = True
        while self._flight is not None:
            await asyncio.wait([self._flight])
            await asyncio.sleep(0)  # the landing runs in a callback of its own
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for thread in (self._write_thread, self._read_thread):
            thread.shutdown()
        self._reader.close()
        self._writer.close()
        os.close(self._lock)


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if not waiting.result.done():
        waiting.result.set_exception(error)


def _lock(path: Path) -> int:
    """Hold the store for this process. A file of its own: closing any descriptor of the database would drop
    SQLite's own POSIX locks on it.
    """
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {name}: {error.strerror}", "Check its directory.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        cause = "another control plane has it open"
        raise StoreError(f"cannot open {path}: {cause}", "Stop that one first.") from error
    return descriptor
