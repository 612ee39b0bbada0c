"""Copies of the store that can take its place, and taking it.

A copy is a store like any other: the present of one moment, without the log. It is made beside a control plane that
runs, checked, and given its name last, so whatever has the name is whole.

Who takes a copy's place for the store goes back in time, and clients have seen the revisions in between. So a
restored store goes on at a revision that nobody has been given, and has no history before it: every watch from
earlier is told to list again (410), as etcd's ``--bump-revision --mark-compacted`` does.
"""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from controlplane.store.claim import Claim
from controlplane.store.contract import StoreError
from controlplane.store.database import Database, make_private

LEAP = 1_000_000  # revisions between the newest that is known of and the restored store's
FILES = ("", "-wal", "-shm")  # what SQLite makes of one database


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that was made and checked."""

    path: Path
    revision: int
    keys: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a store has become, and where the files are that it was."""

    source: Path
    revision: int
    keys: int
    aside: tuple[Path, ...]


def name_for(now: datetime) -> str:
    """A backup's file name: it sorts by time."""
    return f"state-{_stamp(now)}.db"


def backups(directory: Path) -> list[Path]:
    """The backups in a directory, the newest first."""
    return sorted(directory.glob("state-*Z.db"), reverse=True)


def back_up(store: Path, target: Path) -> Copy:
    """Copy a store, also one that is in use. Blocks. Raises StoreError; then there is no file of that name."""
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {target.parent}: {error.strerror}") from None
    made = _copy(store, target, leap=0, noted=0)
    _name(made.path, target)
    return Copy(target, made.revision, made.keys)


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest backups."""
    for old in backups(directory)[keep:]:
        old.unlink(missing_ok=True)


def restore(store: Path, source: Path, now: datetime) -> Restored:
    """Put a copy of ``source`` in a store's place; what was there is kept under other names. Blocks.

    ``source`` may be the store itself: what is left in it is taken, with the revision that makes it safe to go on.
    Raises StoreError: a control plane runs, the source is not good, no space. Then the store is as it was.
    """
    claim = Claim.take(store)
    try:
        made = _copy(source, store, leap=LEAP, noted=claim.noted)
        aside = tuple(_put_aside(store, now))
        _name(made.path, store)
        claim.note(made.revision)
        return Restored(source, made.revision, made.keys, aside)
    finally:
        claim.release()


def newest_good(directory: Path) -> Path:
    """The newest backup that can be read whole. Raises StoreError where there is none."""
    found = backups(directory)
    problems = []
    for path in found:
        try:
            _check(path)
            return path
        except StoreError as error:
            problems.append(str(error))
    cause = f"none of {len(found)} is good: {problems[0]}" if problems else "there is none"
    raise StoreError(f"cannot restore a backup from {directory}: {cause}", "Name a file of your own.")


def _copy(source: Path, target: Path, *, leap: int, noted: int) -> Copy:
    """A new store beside ``target``, with what ``source`` holds now."""
    partial = target.with_name(f".{target.name}.new")
    _remove(partial)
    try:
        _check(source)
        make_private(partial)
        with closing(Database(partial)) as made:
            made.prepare()
            revision, keys = made.take(source, leap=leap, noted=noted)
        _check(partial)
        return Copy(partial, revision, keys)
    except BaseException:
        _remove(partial)
        raise


def _check(path: Path) -> None:
    """Raises StoreError unless it is a whole store of ours. Reads only."""
    if not path.is_file():
        raise StoreError(f"cannot read {path}: there is no such file")
    with closing(Database(path, read_only=True)) as database:
        database.check()
        database.page("/", 0, "", 0)  # reads, and so checks, every value


def _name(partial: Path, target: Path) -> None:
    """Give a whole file its name, durably."""
    try:
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    except OSError as error:
        _remove(partial)
        raise StoreError(f"cannot write {target}: {error.strerror}") from None


def _put_aside(store: Path, now: datetime) -> Sequence[Path]:
    moved = []
    for suffix in FILES:
        old = store.with_name(store.name + suffix)
        if old.exists():
            moved.append(old.replace(store.with_name(f"{store.name}.before-{_stamp(now)}{suffix}")))
    return moved


def _remove(partial: Path) -> None:
    for suffix in FILES:
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
