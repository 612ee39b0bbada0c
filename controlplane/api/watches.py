"""WATCH: replay what was missed, then write each change straight into the connection.

Source: Kubernetes API concepts, "Efficient detection of changes", "Watch bookmarks", "Streaming lists".
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

from controlplane.api.hub import Hub, replayed
from controlplane.api.records import Record, Transition, key_for, prefix_of
from controlplane.api.represent import Representation, error_event
from controlplane.api.selection import ListOptions, Selection
from controlplane.store.contract import Compacted, Future, StoreError
from netplane.kube.errors import StatusError, expired, unavailable

MAX_BUFFERED = 16 * 1024 * 1024  # bytes not yet read by a watcher; one that is slower lists again
DEFAULT_SECONDS = 1800.0
_BATCH = 256


def word_for(selection: Selection, change: Transition) -> str | None:
    """The event a change is to this watcher; moving into or out of a selection is ADDED or DELETED."""
    was = change.old is not None and selection.matches(change.old.obj)
    now = change.new is not None and selection.matches(change.new.obj)
    match was, now:
        case True, True:
            return "MODIFIED"
        case False, True:
            return "ADDED"
        case True, False:
            return "DELETED"
    return None


class Watcher:
    """One watch connection. Until `live`, changes wait in a backlog, so that the past goes out first."""

    def __init__(
        self,
        options: ListOptions,
        form: Representation,
        transport: asyncio.WriteTransport,
        clock: Callable[[], datetime],
    ) -> None:
        self.ended = asyncio.Event()
        self.options, self._form = options, form
        self._transport, self._clock = transport, clock
        self._backlog: list[Transition] | None = []

    def hear(self, change: Transition) -> None:
        """See `hub.Listener.hear`."""
        if self._backlog is not None:
            self._backlog.append(change)
        elif (word := word_for(self.options.selection, change)) is not None:
            self.write(self._form.transition(word, change, self._clock()))

    def mark(self, revision: int) -> None:
        """See `hub.Listener.mark`."""
        if self.options.bookmarks and self._backlog is None:
            self.write(self._form.bookmark(self.options.selection.kind, revision, self._clock()))

    def end(self) -> None:
        """See `hub.Listener.end`."""
        self.ended.set()

    def live(self) -> None:
        """The past has gone out: hand over what gathered meanwhile, and write directly from now on."""
        backlog, self._backlog = self._backlog or [], None
        for change in backlog:
            self.hear(change)

    def frames(self, changes: Iterable[Transition]) -> list[bytes]:
        """The chunks that these changes are to this watcher."""
        now = self._clock()
        worded = ((word_for(self.options.selection, change), change) for change in changes)
        return [self._form.transition(word, change, now) for word, change in worded if word is not None]

    def initial(self, records: Iterable[Record]) -> list[bytes]:
        """The chunks that say what is there already."""
        selection, now = self.options.selection, self._clock()
        chosen = sorted((r for r in records if selection.matches(r.obj)), key=lambda record: record.key)
        return [self._form.event("ADDED", record, selection.kind, now) for record in chosen]

    def initial_end(self, revision: int) -> bytes:
        """The bookmark after the initial events of a streaming list."""
        return self._form.bookmark(self.options.selection.kind, revision, self._clock(), initial_end=True)

    def write(self, frame: bytes) -> None:
        """Give bytes to the connection; a watcher that does not read them is cut off."""
        if self._transport.is_closing():
            self.ended.set()
        elif self._transport.get_write_buffer_size() > MAX_BUFFERED:
            self._transport.abort()
            self.ended.set()
        else:
            self._transport.write(frame)


async def run(hub: Hub, watcher: Watcher, drain: Callable[[], Awaitable[None]]) -> None:
    """Serve one watch until its time is over, the client leaves or the server stops.

    The answer's head has been sent, so a past that is gone is an ERROR event with the Status in it.
    """
    options = watcher.options
    resource = options.selection.kind.resource
    hub.listen(resource, watcher)
    try:
        past = await _past(hub, watcher)
        for start in range(0, len(past), _BATCH):
            watcher.write(b"".join(past[start : start + _BATCH]))
            await drain()
        watcher.live()
        try:
            async with asyncio.timeout(options.timeout or DEFAULT_SECONDS):
                await watcher.ended.wait()
        except TimeoutError:
            watcher.mark(hub.revision)  # the client continues from here, and misses nothing
    except StatusError as error:
        watcher.write(error_event(error.status))
    except StoreError as error:
        watcher.write(error_event(unavailable(str(error)).status))
    finally:
        hub.forget(resource, watcher)


async def _past(hub: Hub, watcher: Watcher) -> list[bytes]:
    """The chunks up to the revision at which the watcher began to listen."""
    options, joined = watcher.options, hub.revision
    kind = options.selection.kind
    since = options.resource_version or 0
    if options.initial_events or (options.initial_events is None and not since):
        frames = watcher.initial(hub.all(kind.resource).values())
        return [*frames, watcher.initial_end(joined)] if options.initial_events else frames
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
