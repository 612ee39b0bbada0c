"""WATCH: replay what was missed, then write each change straight into the connection.

Source: Kubernetes API concepts, "Efficient detection of changes", "Watch bookmarks", "Streaming lists".
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

from controlplane.api.failures import failure
from controlplane.api.memory.hub import Hub, replayed
from controlplane.api.memory.records import Record, Transition, key_for, prefix_of
from controlplane.api.reading.fanout import Fanout, word_for
from controlplane.api.reading.represent import Representation, error_event
from controlplane.api.reading.selection import ListOptions
from controlplane.store.contract import Compacted, Future, StoreError
from netplane.kube.errors import StatusError, expired

MAX_BUFFERED = 4 * 1024 * 1024  # bytes not yet read by a watcher; one that is slower lists again
DEFAULT_SECONDS = 1800.0
_BATCH = 256


class Watcher:
    """One watch connection. Until `live`, what it is given waits, so that the past goes out first."""

    def __init__(
        self,
        options: ListOptions,
        form: Representation,
        transport: asyncio.WriteTransport,
        clock: Callable[[], datetime],
    ) -> None:
        self.ended = asyncio.Event()
        self.options, self.form = options, form
        self._transport, self._clock = transport, clock
        self._backlog: list[bytes] | None = []
        self._backlog_size = 0

    @property
    def behind(self) -> bool:
        """Whether it has not been given all of its past."""
        return self._backlog is not None

    def write(self, frames: bytes) -> None:
        """See `fanout.Listener.write`."""
        if self._backlog is None:
            self.send(frames)
        elif self._backlog_size > MAX_BUFFERED:
            self._cut()
        else:
            self._backlog.append(frames)
            self._backlog_size += len(frames)

    def end(self) -> None:
        """See `fanout.Listener.end`."""
        self.ended.set()

    def live(self) -> None:
        """The past has gone out: hand over what gathered meanwhile, and write directly from now on."""
        backlog, self._backlog = self._backlog or [], None
        for frames in backlog:
            self.send(frames)

    def frames(self, changes: Iterable[Transition]) -> list[bytes]:
        """The chunks that these changes are to this watcher."""
        now = self._clock()
        worded = ((word_for(self.options.selection, change), change) for change in changes)
        return [self.form.transition(word, change, now) for word, change in worded if word is not None]

    def initial(self, records: Iterable[Record]) -> list[bytes]:
        """The chunks that say what is there already."""
        selection, now = self.options.selection, self._clock()
        chosen = sorted((r for r in records if selection.matches(r.obj)), key=lambda record: record.key)
        return [self.form.event("ADDED", record, selection.kind, now) for record in chosen]

    def bookmark(self, revision: int, *, initial_end: bool = False) -> bytes:
        """The chunk that says how far the watch has come, or that the initial events end here."""
        kind = self.options.selection.kind
        return self.form.bookmark(kind, revision, self._clock(), initial_end=initial_end)

    def send(self, frames: bytes) -> None:
        """Give bytes to the connection; a watcher that does not read them is cut off."""
        if self._transport.is_closing():
            self.ended.set()
        elif self._transport.get_write_buffer_size() > MAX_BUFFERED:
            self._cut()
        else:
            self._transport.write(frames)

    def _cut(self) -> None:
        self._transport.abort()
        self.ended.set()


async def run(hub: Hub, fanout: Fanout, watcher: Watcher, drain: Callable[[], Awaitable[None]]) -> None:
    """Serve one watch until its time is over, the client leaves or the server stops.

    The answer's head has been sent, so a past that is gone is an ERROR event with the Status in it.
    """
    fanout.join(watcher)
    try:
        async with asyncio.timeout(watcher.options.timeout or DEFAULT_SECONDS):
            await _send_past(hub, watcher, drain)
            watcher.live()
            await watcher.ended.wait()
    except TimeoutError:
        fanout.leave(watcher)  # what waits for it goes out before the bookmark that is newer
        if watcher.options.bookmarks and not watcher.behind:
            watcher.send(watcher.bookmark(hub.revision))  # the client continues from here, and misses nothing
    except StatusError as error:
        watcher.send(error_event(error.status))
    except StoreError as error:
        watcher.send(error_event(failure(error).status))
    finally:
        fanout.leave(watcher)


async def _send_past(hub: Hub, watcher: Watcher, drain: Callable[[], Awaitable[None]]) -> None:
    """As fast as the client reads it; it may leave meanwhile."""
    past = await _past(hub, watcher)
    for start in range(0, len(past), _BATCH):
        watcher.send(b"".join(past[start : start + _BATCH]))
        await drain()


async def _past(hub: Hub, watcher: Watcher) -> list[bytes]:
    """The chunks up to the revision at which the watcher began to listen."""
    options, joined = watcher.options, hub.revision
    kind = options.selection.kind
    since = options.resource_version or 0
    if options.initial_events or (options.initial_events is None and not since):
        frames = watcher.initial(hub.all(kind.resource).values())
        return [*frames, watcher.bookmark(joined, initial_end=True)] if options.initial_events else frames
    if not since or (since <= joined and hub.unchanged_since(kind.resource, since)):
        return []
    namespace = options.selection.namespace
    prefix = key_for(kind.resource, namespace, "") if namespace else prefix_of(kind.resource)
    try:
        events = await hub.store.changes(prefix, since)
    except Compacted as error:
        raise expired(f"too old resource version: {since} ({error.oldest})") from None
    except Future as error:
        # A revision from another life of this cluster (its store was replaced): waiting would be for ever.
        raise expired(f"too new resource version: {since} ({error.current})") from None
    return watcher.frames(replayed(kind, event) for event in events if event.revision <= joined)
