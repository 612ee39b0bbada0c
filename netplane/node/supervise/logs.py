"""Daemons' output in files of bounded size.

A daemon writes straight into its file (opened for append), so nothing is lost or blocked when the
supervisor is slow or gone. When the file has grown past its limit its content is copied to `<name>.1`
and the file is emptied under the writer: two files, at most twice the limit plus what a daemon can
write within one look.
"""

import os
import shutil
from pathlib import Path

LIMIT = 8 * 1024 * 1024


def open_for_append(path: Path) -> int:
    """A descriptor for a daemon's stdout and stderr; the caller closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def rotate(path: Path, limit: int = LIMIT) -> bool:
    """Move `path`'s content to `<path>.1` if it is over `limit` bytes; True if it did.

    Where there is no room for the copy the content is given up: a full disk is not the log's to keep full.
    """
    former = path.with_name(path.name + ".1")
    try:
        if path.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    try:
        shutil.copyfile(path, former)
    except OSError:
        former.unlink(missing_ok=True)
    os.truncate(path, 0)
    return True


def tail(path: Path, lines: int, within: int = 65536) -> list[str]:
    """The last `lines` lines of a log, from its last `within` bytes; none if there is no such file."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - within))
            return log.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
