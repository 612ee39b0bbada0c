"""The cluster in memory: every object as of the newest revision, and everybody who watches.

The store tells the hub of each commit before the writer hears of it, so a reader always sees its own writes. A
change is encoded once for each form and goes straight into the transports of those it concerns: no task and no
queue per watcher.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from controlplane.api.kinds.kind import Kind
from controlplane.api.records import Record, Transition, prefix_of
from controlplane.store.contract import Event, Store
from netplane.kube.resources import Resource

log = logging.getLogger(__name__)

GUARDS = "/guard/"  # keys without an object: they serialise writes that depend on each other


class Listener(Protocol):
    """A watcher as the hub sees it."""

    def hear(self, change: Transition) -> None:
        """Take one change of the resource listened to. Must not raise, must not wait."""

    def mark(self, revision: int) -> None:
        """Nothing of interest has happened up to this revision."""

    def end(self) -> None:
        """The server stops."""


class Hub:
    """Owned by one event loop; readers on it see whole commits only."""

    def __init__(self, store: Store, kinds: Iterable[Kind]) -> None:
        self.store = store
        served = tuple(kinds)
        self._kinds = {prefix_of(kind.resource): kind for kind in served if kind.stored}
        self._records: dict[Resource, dict[str, Record]] = {kind.resource: {} for kind in served}
        self._last: dict[Resource, int] = dict.fromkeys(self._records, 0)
        self._listeners: dict[Resource, set[Listener]] = {resource: set() for resource in self._records}
        self._guards: dict[str, int] = {}
        self._turns = {resource: asyncio.Lock() for resource in self._records}
        self.revision = 0
        self._ended = False

    async def load(self) -> None:
        """Read the whole store. Call it once, before anybody writes."""
        page = await self.store.page("/")
        for entry in page.entries:
            if entry.key.startswith(GUARDS):
                self._guards[entry.key] = entry.revision
            elif kind := self.kind_of(entry.key):
                record = Record.read(entry.key, entry.value, entry.revision)
                self._records[kind.resource][entry.key] = record
        self.revision = page.revision
        self._last = dict.fromkeys(self._records, page.revision)
        self.store.subscribe(self._take)

    def kind_of(self, key: str) -> Kind | None:
        """The kind a key belongs to, if we serve it."""
        _, group, plural, _ = key.split("/", 3)
        return self._kinds.get(f"/{group}/{plural}/")

    def get(self, resource: Resource, key: str) -> Record | None:
        """One record as of now."""
        return self._records[resource].get(key)

    def all(self, resource: Resource) -> Mapping[str, Record]:
        """A resource's records by key, in no order, as of now."""
        return self._records[resource]

    def guard(self, name: str) -> tuple[str, int]:
        """A guard's key and its revision (0: never used)."""
        key = GUARDS + name
        return key, self._guards.get(key, 0)

    def turn(self, resource: Resource) -> asyncio.Lock:
        """Held by the one writer of a resource whose turn it is, of those who have lost a race."""
        return self._turns[resource]

    def unchanged_since(self, resource: Resource, revision: int) -> bool:
        """Whether nothing of this resource happened after a revision, so that nothing need be replayed."""
        return self._last[resource] <= revision

    def listen(self, resource: Resource, listener: Listener) -> None:
        """From now on, tell this listener of every change of the resource."""
        self._listeners[resource].add(listener)
        if self._ended:
            listener.end()

    def forget(self, resource: Resource, listener: Listener) -> None:
        """Stop telling it."""
        self._listeners[resource].discard(listener)

    def watchers(self) -> Mapping[Resource, int]:
        """How many listen to each resource."""
        return {resource: len(listeners) for resource, listeners in self._listeners.items()}

    def mark(self) -> None:
        """Tell everybody how far the store has come."""
        for listeners in self._listeners.values():
            for listener in tuple(listeners):
                listener.mark(self.revision)

    def end(self) -> None:
        """Tell everybody that the server stops, and whoever comes from now on."""
        self._ended = True
        for listeners in self._listeners.values():
            for listener in tuple(listeners):
                listener.end()

    def _take(self, events: Sequence[Event]) -> None:
        """A batch of commits: memory first, so that who is told of a change and looks, finds it."""
        changes = []
        for event in events:
            self.revision = event.revision
            if event.key.startswith(GUARDS):
                self._guards[event.key] = event.revision
            elif (kind := self.kind_of(event.key)) is not None:
                changes.append(self._store(kind, event))
        for change in changes:
            for listener in tuple(self._listeners[change.kind.resource]):
                self._tell(listener, change)

    def _tell(self, listener: Listener, change: Transition) -> None:
        """A listener that fails is ended (its client lists again); the writer and the others go on."""
        try:
            listener.hear(change)
        except Exception:
            log.exception("a watcher of %s failed", change.kind.resource.qualified)
            listener.end()

    def _store(self, kind: Kind, event: Event) -> Transition:
        records = self._records[kind.resource]
        old, new = records.pop(event.key, None), None
        if event.value is not None:
            new = records[event.key] = Record.read(event.key, event.value, event.revision)
        self._last[kind.resource] = event.revision
        return Transition(kind, event.revision, old, new)


def replayed(kind: Kind, event: Event) -> Transition:
    """A change read back from the store's log."""
    old = new = None
    if event.previous is not None:
        old = Record.read(event.key, event.previous, event.previous_revision)
    if event.value is not None:
        new = Record.read(event.key, event.value, event.revision)
    return Transition(kind, event.revision, old, new)
