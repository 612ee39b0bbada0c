"""The store of one machine: SQLite in two worker threads, one that writes and one that reads.

Group commit: while the writer's thread waits for the disk, new commits gather, and go into its next
transaction together. Durability costs one fsync a batch, and the event loop never waits for a disk.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from controlplane.store.claim import Claim
from controlplane.store.contract import RESTORE, Busy, Event, Operation, Page, StoreError, Subscriber, Unsure
from controlplane.store.database import Database, Outcome, make_private


def path_of(state: Path) -> Path:
    """The store's file in a machine's state directory."""
    return state / "state.db"


def directory_of(state: Path) -> Path:
    """Where its backups are."""
    return state / "backups"


@dataclass(frozen=True, slots=True)
class _Waiting:
    operations: tuple[Operation, ...]
    result: asyncio.Future[int]


class SQLiteStore:
    """`contract.Store` on one file. Owned by one process (`claim.Claim`) and one event loop."""

    def __init__(self, path: Path, claim: Claim, writer: Database, reader: Database, revision: int) -> None:
        self._path, self._claim = path, claim
        self._writer, self._reader = writer, reader
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="store-read")
        self._revision = revision
        self._subscribers: list[Subscriber] = []
        self._waiting: list[_Waiting] = []
        self._flight: asyncio.Future[list[Outcome]] | None = None
        self._closed = False
        self._unsure: Unsure | None = None

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create.

        Raises StoreError: no permission, damaged, not ours, in use, or less than what was acknowledged.
        """
        return await asyncio.to_thread(cls._open, path)

    @classmethod
    def _open(cls, path: Path) -> Self:
        claim = Claim.take(path)
        try:
            noted = claim.noted
            if noted and not (path.exists() and path.stat().st_size):
                raise StoreError(f"cannot open {path}: it is gone, and was at revision {noted}", RESTORE)
            make_private(path)
            writer = Database(path)
            writer.prepare()
            newest = writer.newest()
            if newest < noted:
                cause = f"it ends at revision {newest}, and {noted} was acknowledged"
                guess = f"an older copy, or {path.name}-wal is gone or damaged"
                raise StoreError(f"cannot open {path}: {cause} ({guess})", RESTORE)
            claim.note(newest)
            return cls(path, claim, writer, Database(path), newest)
        except BaseException:
            claim.release()
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
            raise Busy(f"cannot write to {self._path}: it is closed")
        self._be_sure()
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
        self._flight = loop.run_in_executor(self._write_thread, self._write, operations)
        self._flight.add_done_callback(lambda flight: self._land(batch, flight))

    def _write(self, batch: Sequence[Sequence[Operation]]) -> list[Outcome]:
        """In the writer's thread: on the disk, then noted, and only then is anybody told."""
        outcomes = self._writer.apply(batch)
        if newest := max(outcome.revision for outcome in outcomes):
            self._claim.note(newest)
        return outcomes

    def _land(self, batch: Sequence[_Waiting], flight: asyncio.Future[list[Outcome]]) -> None:
        """Tell the subscribers, then those who committed; and send what gathered meanwhile."""
        self._flight = None
        cancelled = Busy(f"cannot write to {self._path}: it closes")
        error = cancelled if flight.cancelled() else flight.exception()
        if isinstance(error, Unsure):
            self._unsure = error
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
        self._be_sure()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._write_thread, self._writer.compact, revision)
        except Unsure as error:
            self._unsure = error
            raise

    def _be_sure(self) -> None:
        """Once the disk has not confirmed a write, later ones would lie upon what it may not have."""
        if self._unsure is not None:
            raise self._unsure

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
        self._claim.release()


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if not waiting.result.done():
        waiting.result.set_exception(error)
