"""The SQL, and nothing but: a blocking connection to one SQLite file, for one thread at a time.

Two tables hold everything: ``kv`` is the present, ``log`` is every change since the last compaction, each with
the value before it. So the past can be listed by undoing the log from the present (source of the idea: kine's
append-only table, and etcd's PrevKV).
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controlplane.store.contract import (
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

APPLICATION_ID = 0x6E65_7470  # "netp": another program's database is refused, not altered
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE log (
    id INTEGER PRIMARY KEY, revision INTEGER NOT NULL, key TEXT NOT NULL,
    value BLOB, previous BLOB, previous_revision INTEGER NOT NULL
);
CREATE INDEX log_by_revision ON log (revision);
CREATE TABLE mark (name TEXT PRIMARY KEY, revision INTEGER NOT NULL);
INSERT INTO mark VALUES ('newest', 1), ('compacted', 1);
"""
BUSY_SECONDS = 5.0

_GET = "SELECT value, revision FROM kv WHERE key = ?"
_PRESENT = "SELECT key, value, revision FROM kv WHERE key > ? AND key < ?"
_PAST = """
WITH undo AS (
    SELECT key, previous AS value, previous_revision AS revision, min(id)
    FROM log WHERE revision > ?3 AND key > ?1 AND key < ?2 GROUP BY key
)
SELECT key, value, revision FROM kv WHERE key > ?1 AND key < ?2 AND key NOT IN (SELECT key FROM undo)
UNION ALL SELECT key, value, revision FROM undo WHERE value IS NOT NULL
"""

_RESTORE = "Restore a copy, or move it away to begin an empty cluster."
_CAUSES = {
    sqlite3.SQLITE_FULL: (
        "there is no space left",
        "Free some; writes work again at once.",
    ),
    sqlite3.SQLITE_IOERR: ("the disk failed", "Look at the kernel's log."),
    sqlite3.SQLITE_CORRUPT: (
        "the file is damaged",
        _RESTORE,
    ),
    sqlite3.SQLITE_NOTADB: (
        "it is not a database",
        _RESTORE,
    ),
    sqlite3.SQLITE_BUSY: ("another program has locked it", "Nothing else may write to it."),
    sqlite3.SQLITE_READONLY: ("it cannot be written", "Check its owner and its mode."),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "Check that its directory exists and can be written."),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one commit of a batch came to: its events at its revision, or why nothing was written."""

    revision: int
    events: tuple[Event, ...] = ()
    stale: Stale | None = None


class Database:
    """One connection. The writer makes the schema; readers only read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained("open"):
            self._sql = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._sql.execute("PRAGMA journal_mode=WAL")
            self._sql.execute("PRAGMA synchronous=FULL")

    def prepare(self) -> None:
        """Make the tables in a new file; refuse a damaged file, and one that is not ours."""
        with self._explained("open"):
            application = self._number("PRAGMA application_id")
            version = self._number("PRAGMA user_version")
            if application == 0 and self._number("SELECT count(*) FROM sqlite_master") == 0:
                self._create()
                return
            if application != APPLICATION_ID:
                raise StoreError(f"cannot open {self._path}: it is another program's database")
            if version != SCHEMA_VERSION:
                cause = f"it has format {version}, this netplane reads format {SCHEMA_VERSION}"
                raise StoreError(f"cannot open {self._path}: {cause}", "Use the netplane that wrote it.")
            found = self._sql.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            cause, hint = _CAUSES[sqlite3.SQLITE_CORRUPT]
            raise StoreError(f"cannot open {self._path}: {cause} ({found.splitlines()[-1]})", hint)

    def _create(self) -> None:
        self._sql.executescript(
            f"BEGIN; {SCHEMA} PRAGMA application_id={APPLICATION_ID};"
            f"PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )

    def newest(self) -> int:
        """The revision of the last commit."""
        with self._explained("read"):
            return self._mark("newest")

    def apply(self, batch: Sequence[Sequence[Operation]]) -> list[Outcome]:
        """Several commits in one transaction, one fsync for all. Raises StoreError: then none was kept."""
        with self._explained("write to"):
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
            row = self._sql.execute(_GET, (operation.key,)).fetchone()
            previous, found = row if row is not None else (None, 0)
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
        if event.value is None:
            self._sql.execute("DELETE FROM kv WHERE key = ?", (event.key,))
        else:
            row = (event.key, event.value, event.revision)
            self._sql.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", row)
        self._sql.execute(
            "INSERT INTO log (revision, key, value, previous, previous_revision) VALUES (?, ?, ?, ?, ?)",
            (event.revision, event.key, event.value, event.previous, event.previous_revision),
        )

    def page(self, prefix: str, revision: int, after: str, limit: int) -> Page:
        """See `contract.Store.page`. One read transaction, so that the revision and the rows agree."""
        low, high = max(prefix, after), _end(prefix)
        with self._explained("read"), self._snapshot():
            newest = self._mark("newest")
            at = revision or newest
            self._require(at, newest)
            query, arguments = (_PRESENT, [low, high]) if at == newest else (_PAST, [low, high, at])
            counted = self._number(f"SELECT count(*) FROM ({query})", arguments) if limit else 0
            ordered = f"{query} ORDER BY key" + (f" LIMIT {int(limit)}" if limit else "")
            entries = tuple(Entry(*row) for row in self._sql.execute(ordered, arguments))
        return Page(entries, at, max(counted - len(entries), 0) if limit else 0)

    def changes(self, prefix: str, since: int) -> list[Event]:
        """See `contract.Store.changes`."""
        columns = "revision, key, value, previous, previous_revision"
        query = f"SELECT {columns} FROM log WHERE revision > ? AND key > ? AND key < ? ORDER BY id"
        with self._explained("read"), self._snapshot():
            self._require(since, self._mark("newest"))
            return [Event(*row) for row in self._sql.execute(query, (since, prefix, _end(prefix)))]

    def compact(self, revision: int) -> None:
        """Forget the log up to a revision, and give the space back to later writes."""
        with self._explained("write to"):
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

    def close(self) -> None:
        """Close the connection; the last one folds the write-ahead log into the file."""
        self._sql.close()

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

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        """Turn SQLite's words into: cannot do what, to which file, why, and what then."""
        try:
            yield
        except sqlite3.Error as error:
            code = (
                getattr(error, "sqlite_errorcode", 0) & 0xFF
            )  # extended codes keep the family in the low byte
            cause, hint = _CAUSES.get(code, (str(error), ""))
            raise StoreError(f"cannot {action} {self._path}: {cause}", hint) from error


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
        raise StoreError(f"cannot open {path}: {error.strerror}") from error
