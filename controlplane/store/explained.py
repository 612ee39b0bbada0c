"""SQLite's words as ours: cannot do what, to which file, why, and what then."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.store.contract import RESTORE, Busy, NoSpace, StoreError, Unsure

Cause = tuple[type[StoreError], str, str]  # whose kind it is, why, and what then

DAMAGED: Cause = (StoreError, "the file is damaged", RESTORE)
_NO_SPACE: Cause = (NoSpace, "there is no space left", "Free some; writes work again at once.")
_UNSURE: Cause = (
    Unsure,
    "the disk did not confirm what was written",
    "Look at the kernel's log, then start the control plane again.",
)
# By extended code where that tells more, else by the family in its low byte.
_CAUSES: dict[int, Cause] = {
    sqlite3.SQLITE_FULL: _NO_SPACE,
    sqlite3.SQLITE_IOERR_SHMSIZE: _NO_SPACE,
    sqlite3.SQLITE_IOERR_FSYNC: _UNSURE,
    sqlite3.SQLITE_IOERR_DIR_FSYNC: _UNSURE,
    sqlite3.SQLITE_IOERR: (StoreError, "the disk failed", "Look at the kernel's log."),
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: (StoreError, "it is not a database", RESTORE),
    sqlite3.SQLITE_BUSY: (Busy, "another program has locked it", "Nothing else may write to it."),
    sqlite3.SQLITE_READONLY: (
        StoreError,
        "it cannot be written",
        "Its file system, owner and mode must allow writing.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        StoreError,
        "it cannot be opened",
        "Its directory must be there and be writable.",
    ),
}


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Raises StoreError for whatever SQLite raises within."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        unknown: Cause = (StoreError, str(error), "")
        kind, cause, hint = _CAUSES.get(code) or _CAUSES.get(code & 0xFF) or unknown
        raise kind(f"cannot {action} {path}: {cause}", hint) from error
