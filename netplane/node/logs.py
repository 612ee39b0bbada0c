"""Reading a container's log back for `kubectl logs`: CRI lines from files that grow and are rotated."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
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
    def parse(cls, query: Mapping[str, str], now: datetime) -> "LogOptions":
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where reading goes on: a file by its inode, and the offset of a line's begin in it."""

    inode: int = 0
    offset: int = 0


def _grown(path: Path, place: _Place) -> tuple[list[bytes], _Place]:
    """The whole lines after ``place``. A file with another inode has been rotated in, and is read from its begin."""
    try:
        with path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            offset = place.offset if inode == place.inode else 0
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], place
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(), _Place(inode, offset + len(whole))


def _stored(path: Path, options: LogOptions) -> tuple[list[bytes], _Place]:
    """What is in the log now, the rotated part first, as a client sees it."""
    older, _ = _grown(path.with_name(path.name + ".1"), _Place())
    newer, place = _grown(path, _Place())
    shown = (text for line in (*older, *newer) if (text := render(line, options)) is not None)
    return list(deque(shown, maxlen=options.tail)), place


async def read(path: Path, options: LogOptions, ended: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    """The log, and with ``follow`` what is added until the container has ended."""
    left = options.limit_bytes
    lines, place = await asyncio.to_thread(_stored, path, options)
    while True:
        for text in lines:
            if left is None:
                yield text
                continue
            yield text[:left]
            left -= len(text)
            if left <= 0:
                return
        if not options.follow:
            return
        over = ended()  # asked before reading: what was written before the end is not missed
        if not over:
            await asyncio.sleep(POLL_SECONDS)
        raw, place = await asyncio.to_thread(_grown, path, place)
        lines = [shown for line in raw if (shown := render(line, options)) is not None]
        if over and not lines:
            return
