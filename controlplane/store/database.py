"""The SQL, and nothing but: a blocking connection to one SQLite file, for one thread at a time.

Two tables hold everything: ``kv`` is the present, ``log`` is every change since the last compaction, each with
the value before it. So the past can be listed by undoing the log from the present (source of the idea: kine's
append-only table, and etcd's PrevKV). SQLite checks its own structure and not what is in it, so each row has the
checksum of its values.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controlplane.store.contract import (
    RESTORE,
    Check,
    Compacted,
    Delete,
    Entry,
    Event,
    Future,
    Operation,
    Page,
    Put,
    Stale,
    StoreError,
)
from controlplane.store.explained import DAMAGED, explained

APPLICATION_ID = 0x6E65_7470  # "netp": another program's database is refused, not altered
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE kv (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, sum INTEGER NOT NULL
);
CREATE TABLE log (
    id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, key TEXT NOT NULL,
    value BLOB, sum INTEGER NOT NULL,
    previous BLOB, previous_revision INTEGER NOT NULL, previous_sum INTEGER NOT NULL
);
CREATE INDEX log_by_revision ON log (revision);
CREATE TABLE mark (name TEXT PRIMARY KEY, revision INTEGER NOT NULL);
INSERT INTO mark VALUES ('newest', 1), ('compacted', 1);
"""
BUSY_SECONDS = 5.0

_GET = "SELECT value, revision, sum FROM kv WHERE key = ?"
_PRESENT = "SELECT key, value, revision, sum FROM kv WHERE key > ? AND key < ?"
_PAST = """
WITH undo AS (
    SELECT key, previous AS value, previous_revision AS revision, previous_sum AS sum, min(id)
    FROM log WHERE revision > ?3 AND key > ?1 AND key < ?2 GROUP BY key
)
SELECT key, value, revision, sum FROM kv WHERE key > ?1 AND key < ?2 AND key NOT IN (SELECT key FROM undo)
UNION ALL SELECT key, value, revision, sum FROM undo WHERE value IS NOT NULL
"""
_CHANGES = """
SELECT revision, key, value, sum, previous, previous_revision, previous_sum
FROM log WHERE revision > ? AND key > ? AND key < ? ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one commit of a batch came to: its events at its revision, or why nothing was written."""

    revision: int
    events: tuple[Event, ...] = ()
    stale: Stale | None = None


class Database:
    """One connection. The writer makes the schema; readers only read."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        with explained("open", self._path):
            self._sql = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
            )
            if not read_only:
                self._sql.execute("PRAGMA journal_mode=WAL")
            self._sql.execute("PRAGMA synchronous=FULL")  # a commit is on the disk before it is told
            self._sql.execute("PRAGMA temp_store=MEMORY")  # a full disk keeps nobody from reading

    def prepare(self) -> None:
        """Make the tables in a new file; refuse a damaged file, and one that is not ours."""
        with explained("open", self._path):
            empty = self._number("SELECT count(*) FROM sqlite_master") == 0
            if empty and self._number("PRAGMA application_id") == 0:
                self._create()
        self.check()

    def check(self) -> None:
        """Raises StoreError for a file whose structure is damaged, and for one that is not ours."""
        with explained("open", self._path):
            if self._number("PRAGMA application_id") != APPLICATION_ID:
                raise StoreError(f"cannot open {self._path}: it is another program's database")
            if (version := self._number("PRAGMA user_version")) != SCHEMA_VERSION:
                cause = f"it has format {version}, this netplane reads format {SCHEMA_VERSION}"
                raise StoreError(f"cannot open {self._path}: {cause}", "Use the netplane that wrote it.")
            found = self._sql.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            kind, cause, hint = DAMAGED
            raise kind(f"cannot open {self._path}: {cause} ({found.splitlines()[-1]})", hint)

    def _create(self) -> None:
        self._sql.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id={APPLICATION_ID};"
            f"PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )

    def newest(self) -> int:
        """The revision of the last commit."""
        with explained("read", self._path):
            return self._mark("newest")

    def apply(self, batch: Sequence[Sequence[Operation]]) -> list[Outcome]:
        """Several commits in one transaction, one fsync for all. Raises StoreError: then none was kept."""
        with explained("write to", self._path):
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                newest = self._mark("newest")
                outcomes = []
                for operations in batch:
                    outcome = self._apply_one(operations, newest + 1)
                    newest = outcome.revision if outcome.stale is None else newest
                    outcomes.append(outcome)
                self._sql.execute("UPDATE mark SET revision = ? WHERE name = 'newest'", (newest,))
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise
        return outcomes

    def _apply_one(self, operations: Sequence[Operation], revision: int) -> Outcome:
        """Look first, then write: a commit that is stale has written nothing."""
        events = []
        for operation in operations:
            row = self._sql.execute(_GET, (operation.key,)).fetchone() or (None, 0, 0)
            previous, found = self._whole(operation.key, row[0], row[2]), row[1]
            expected = operation.expected
            if expected is None and isinstance(operation, Delete) and not found:
                expected = -1
            if expected is not None and expected != found:
                return Outcome(0, stale=Stale(operation.key, expected, found))
            if isinstance(operation, Check):
                continue
            value = operation.value if isinstance(operation, Put) else None
            events.append(Event(revision, operation.key, value, previous, found))
        for event in events:
            self._write(event)
        return Outcome(revision, tuple(events))

    def _write(self, event: Event) -> None:
        total = _sum(event.value)
        if event.value is None:
            self._sql.execute("DELETE FROM kv WHERE key = ?", (event.key,))
        else:
            row = (event.key, event.value, event.revision, total)
            self._sql.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?)", row)
        previous = (event.previous, event.previous_revision, _sum(event.previous))
        self._sql.execute(
            "INSERT INTO log (revision, key, value, sum, previous, previous_revision, previous_sum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (event.revision, event.key, event.value, total, *previous),
        )

    def page(self, prefix: str, revision: int, after: str, limit: int) -> Page:
        """See `contract.Store.page`. One read transaction, so that the revision and the rows agree."""
        low, high = max(prefix, after), _end(prefix)
        with explained("read", self._path), self._snapshot():
            newest = self._mark("newest")
            at = revision or newest
            self._require(at, newest)
            query, arguments = (_PRESENT, [low, high]) if at == newest else (_PAST, [low, high, at])
            counted = self._number(f"SELECT count(*) FROM ({query})", arguments) if limit else 0
            ordered = f"{query} ORDER BY key" + (f" LIMIT {int(limit)}" if limit else "")
            rows = self._sql.execute(ordered, arguments)
            entries = tuple(
                Entry(key, self._whole(key, value, total) or b"", at_revision)
                for key, value, at_revision, total in rows
            )
        return Page(entries, at, max(counted - len(entries), 0) if limit else 0)

    def changes(self, prefix: str, since: int) -> list[Event]:
        """See `contract.Store.changes`."""
        with explained("read", self._path), self._snapshot():
            self._require(since, self._mark("newest"))
            rows = self._sql.execute(_CHANGES, (since, prefix, _end(prefix)))
            return [self._event(*row) for row in rows]

    def _event(
        self,
        revision: int,
        key: str,
        value: bytes | None,
        total: int,
        previous: bytes | None,
        previous_revision: int,
        previous_total: int,
    ) -> Event:
        new, old = self._whole(key, value, total), self._whole(key, previous, previous_total)
        return Event(revision, key, new, old, previous_revision)

    def compact(self, revision: int) -> None:
        """Forget the log up to a revision, and give the space back to later writes."""
        with explained("write to", self._path):
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                target = min(revision, self._mark("newest"))
                if target > self._mark("compacted"):
                    self._sql.execute("DELETE FROM log WHERE revision <= ?", (target,))
                    self._sql.execute("UPDATE mark SET revision = ? WHERE name = 'compacted'", (target,))
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise

    def take(self, source: Path, *, leap: int, noted: int) -> tuple[int, int]:
        """Fill an empty database with what another holds now, at the newest revision of both worlds plus ``leap``.

        The revision and the number of keys come back. History before it is none: it counts as compacted.
        """
        with explained("write to", self._path):
            self._sql.execute("ATTACH ? AS source", (f"{source.absolute().as_uri()}?mode=ro",))
            self._sql.execute("BEGIN IMMEDIATE")
            self._sql.execute("INSERT INTO main.kv SELECT key, value, revision, sum FROM source.kv")
            newest = self._number("SELECT revision FROM source.mark WHERE name = 'newest'")
            revision = max(newest, noted) + leap
            self._sql.execute("UPDATE main.mark SET revision = ?", (revision,))
            self._sql.execute("COMMIT")
            self._sql.execute("DETACH source")
            self._sql.execute("PRAGMA journal_mode=DELETE")  # one file, that can be read wherever it is
            return revision, self._number("SELECT count(*) FROM kv")

    def close(self) -> None:
        """Close the connection; the last one folds the write-ahead log into the file."""
        self._sql.close()

    def _whole(self, key: str, value: bytes | None, total: int) -> bytes | None:
        """A value as it was written. Raises StoreError."""
        if _sum(value) != total:
            raise StoreError(f"cannot read {self._path}: the value of {key} is damaged", RESTORE)
        return value

    def _require(self, revision: int, newest: int) -> None:
        oldest = self._mark("compacted")
        if revision < oldest:
            raise Compacted(revision, oldest)
        if revision > newest:
            raise Future(revision, newest)

    def _mark(self, name: str) -> int:
        return self._number("SELECT revision FROM mark WHERE name = ?", (name,))

    def _number(self, query: str, arguments: Sequence[object] = ()) -> int:
        row = self._sql.execute(query, arguments).fetchone()
        return int(row[0])

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._sql.execute("BEGIN")
        try:
            yield
        finally:
            self._sql.execute("COMMIT")


def _sum(value: bytes | None) -> int:
    return zlib.crc32(value) if value is not None else 0


def _end(prefix: str) -> str:
    """The first string after all that begin with this prefix; prefixes end with "/"."""
    if not prefix.endswith("/"):
        raise ValueError(f"a prefix ends with '/': {prefix!r}")
    return prefix[:-1] + chr(ord("/") + 1)


def make_private(path: Path) -> None:
    """Create the file with mode 0600 before SQLite does with the umask's."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        hint = "Its file system, owner and mode must allow writing."
        raise StoreError(f"cannot open {path}: {error.strerror}", hint) from error
