"""Reading a container's log back for `kubectl logs`: CRI lines from files that grow and are rotated."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from netplane.kube.objects import parse_time

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class LogOptions:
    """As `v1.PodLogOptions`; ``since`` is an instant."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: datetime | None = None
    limit_bytes: int | None = None

    @classmethod
    def parse(cls, query: "dict[str, str]", now: datetime) -> "LogOptions":
        """From a request's query. Raises ValueError naming the parameter."""
        since: datetime | None = None
        if seconds := query.get("sinceSeconds"):
            since = now - timedelta(seconds=_number(seconds, "sinceSeconds"))
        if instant := query.get("sinceTime"):
            try:
                since = parse_time(instant)
            except ValueError:
                raise ValueError(f"sinceTime {instant!r} is not a time") from None
        return cls(
            follow=query.get("follow") in ("true", "1"),
            timestamps=query.get("timestamps") in ("true", "1"),
            tail=_number(query["tailLines"], "tailLines") if query.get("tailLines") else None,
            since=since,
            limit_bytes=_number(query["limitBytes"], "limitBytes") if query.get("limitBytes") else None,
        )


def _number(text: str, name: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def render(line: bytes, options: LogOptions) -> bytes | None:
    """One CRI line as a client sees it; None when it is no such line, or too old."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) < 4:
        return None
    stamp, _, tag, text = parts
    if options.since is not None and not _recent(stamp, options.since):
        return None
    end = b"" if tag == b"P" else b"\n"
    return (stamp + b" " if options.timestamps else b"") + text + end


def _recent(stamp: bytes, since: datetime) -> bool:
    # Python reads microseconds; the log has nanoseconds.
    text = stamp.decode("ascii", "replace")
    try:
        return datetime.fromisoformat(text[:26]).replace(tzinfo=UTC) >= since
    except ValueError:
        return True


def stored(path: Path, options: LogOptions) -> Iterator[bytes]:
    """What is in the log now, the rotated part first."""
    found: Iterator[bytes] = (
        text
        for file in (path.with_name(path.name + ".1"), path)
        if file.exists()
        for line in file.read_bytes().splitlines(keepends=True)
        if (text := render(line, options)) is not None
    )
    if options.tail is None:
        return found
    return iter(deque(found, maxlen=options.tail))


async def read(path: Path, options: LogOptions, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log, and with ``follow`` what is added until the container has ended."""
    left = options.limit_bytes
    with suppress(FileNotFoundError):
        position = path.stat()
    offset, inode = (position.st_size, position.st_ino) if path.exists() else (0, 0)
    for text in await asyncio.to_thread(lambda: list(stored(path, options))):
        yield text if left is None else text[:left]
        if left is not None and (left := left - len(text)) <= 0:
            return
    if not options.follow:
        return
    rest = b""
    while True:
        over = ended()  # asked before reading: what was written before the end is not missed
        data, offset, inode = await asyncio.to_thread(_grown, path, offset, inode)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if (text := render(line, options)) is not None:
                yield text
        if over:
            return
        await asyncio.sleep(POLL_SECONDS)


def _grown(path: Path, offset: int, inode: int) -> tuple[bytes, int, int]:
    """What came after ``offset``; a file with another inode is new and read from its begin."""
    try:
        with path.open("rb") as file:
            import os

            now = os.fstat(file.fileno())
            file.seek(offset if now.st_ino == inode else 0)
            data = file.read()
            return data, file.tell(), now.st_ino
    except FileNotFoundError:
        return b"", 0, 0
