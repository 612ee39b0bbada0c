"""The cluster in memory: every object as of the newest revision.

The store tells the hub of each commit before the writer hears of it, so a reader always sees its own writes.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from controlplane.api.kinds.kind import Kind
from controlplane.api.memory.records import Record, Transition, prefix_of
from controlplane.store.contract import Event, Store
from netplane.kube.resources import Resource

GUARDS = "/guard/"  # keys without an object: they serialise writes that depend on each other


Teller = Callable[[Sequence[Transition]], None]


class Hub:
    """Owned by one event loop; readers on it see whole commits only."""

    def __init__(self, store: Store, kinds: Iterable[Kind]) -> None:
        self.store = store
        served = tuple(kinds)
        self._kinds = {prefix_of(kind.resource): kind for kind in served if kind.stored}
        self._records: dict[Resource, dict[str, Record]] = {kind.resource: {} for kind in served}
        self._last: dict[Resource, int] = dict.fromkeys(self._records, 0)
        self._tellers: list[Teller] = []
        self._guards: dict[str, int] = {}
        self._turns = {resource: asyncio.Lock() for resource in self._records}
        self.revision = 0

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

    def subscribe(self, tell: Teller) -> None:
        """Call this with each batch of changes from now on, when memory has them. It must not raise."""
        self._tellers.append(tell)

    def _take(self, events: Sequence[Event]) -> None:
        """A batch of commits: memory first, so that who is told of a change and looks, finds it."""
        changes = []
        for event in events:
            self.revision = event.revision
            if event.key.startswith(GUARDS):
                self._guards[event.key] = event.revision
            elif (kind := self.kind_of(event.key)) is not None:
                changes.append(self._store(kind, event))
        for tell in self._tellers:
            tell(changes)

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
