"""The file beside the database: whose the store is, and how far it had come when somebody was last told.

SQLite believes what it finds. A write-ahead log that is gone or cut short, an older copy of the database or none at
all look to it like a store that has done less. So the newest revision is noted here before anybody hears of it, and a
database that ends before the note is refused: it would lose writes, and give their revisions a second time.

The note is written without waiting for the disk: it survives the end of the process, and after a loss of power it may
lag behind the database, never run ahead of it.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self

from controlplane.store.contract import StoreError

_DIGITS = 20


class Claim:
    """Held by one process at a time, by an flock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, store: Path) -> Self:
        """Make the store this process's own. Raises StoreError: another process has it, or no permission.

        A file of its own: closing any descriptor of the database would drop SQLite's own POSIX locks on it.
        """
        name = store.with_name(store.name + ".lock")
        try:
            descriptor = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "Its directory must be there and be writable."
            raise StoreError(f"cannot open {name}: {error.strerror}", hint) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            cause = "another control plane has it open"
            raise StoreError(f"cannot open {store}: {cause}", "Stop that one first.") from error
        return cls(descriptor)

    @property
    def noted(self) -> int:
        """The newest revision that anybody was told of; 0 where nothing is noted."""
        text = os.pread(self._descriptor, _DIGITS, 0)
        return int(text) if len(text) == _DIGITS and text.isdigit() else 0

    def note(self, revision: int) -> None:
        """Say that the store has come as far as this. It is in the database already: a failure loses nothing."""
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, b"%0*d" % (_DIGITS, revision), 0)

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._descriptor)
