"""Who is told of a change, and when.

Watchers that asked the same question are one audience: whether a change concerns them is decided once, and its bytes
are made once. Audiences are found by the one value that each of them demands (a node's name, an object's, a
namespace), so a pod's change costs its own node's audience and not a thousand of them.

Events go out in rounds. After a quiet time the first change goes out at once; then the next round waits as long as
the last one took, times REST. So a few watchers hear at once, a thousand hear of several changes in one write, and
telling them leaves the processor to the others most of the time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from controlplane.api.kinds.kind import Kind
from controlplane.api.memory.records import Record, Transition
from controlplane.api.reading.represent import Representation
from controlplane.api.reading.selection import ListOptions, Selection
from netplane.kube.resources import Resource

log = logging.getLogger(__name__)

REST = 2.0
LONGEST_REST = 0.025  # seconds that an event may wait for others

Demand = tuple[str, str]  # a field and the value it must have
NO_DEMAND: Demand = ("", "")


class Listener(Protocol):
    """A watcher as an audience sees it."""

    @property
    def options(self) -> ListOptions:
        """What was asked for."""

    @property
    def form(self) -> Representation:
        """In which form."""

    def write(self, frames: bytes) -> None:
        """Take the bytes of one or more events. Must not raise, must not wait."""

    def end(self) -> None:
        """There will be no more."""


def word_for(selection: Selection, change: Transition) -> str | None:
    """The event that a change is to this selection; moving into or out of it is ADDED or DELETED."""
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


class Audience:
    """The listeners that want the same events in the same form, and what they have not been given yet."""

    def __init__(self, options: ListOptions, form: Representation) -> None:
        self.listeners: set[Listener] = set()
        self._selection, self._bookmarks, self._form = options.selection, options.bookmarks, form
        self._frames: list[bytes] = []
        self._late: dict[Listener, int] = {}  # who came after so many of the frames that wait

    @property
    def waits(self) -> bool:
        """Whether there is something to deliver."""
        return bool(self._frames)

    def hear(self, change: Transition, now: datetime) -> None:
        """Note what the change is to these listeners, if it is anything."""
        if (word := word_for(self._selection, change)) is not None:
            self._frames.append(self._form.transition(word, change, now))

    def mark(self, revision: int, now: datetime) -> None:
        """Note that nothing else has happened up to this revision."""
        if self._bookmarks:
            self._frames.append(self._form.bookmark(self._selection.kind, revision, now))

    def join(self, listener: Listener) -> None:
        """From the next change on."""
        self.listeners.add(listener)
        if self._frames:
            self._late[listener] = len(self._frames)

    def leave(self, listener: Listener) -> None:
        """No more, after what waits for it."""
        if listener in self.listeners:
            self.listeners.remove(listener)
            self._give(listener, b"".join(self._frames))

    def deliver(self) -> None:
        """Give everybody what waits: the same bytes to all who have been here for all of it."""
        whole = b"".join(self._frames)
        for listener in tuple(self.listeners):
            self._give(listener, whole)
        self._frames.clear()
        self._late.clear()

    def end(self) -> None:
        """Tell everybody that there will be no more."""
        for listener in tuple(self.listeners):
            listener.end()

    def _give(self, listener: Listener, whole: bytes) -> None:
        missed = self._late.pop(listener, 0)
        frames = b"".join(self._frames[missed:]) if missed else whole
        if frames:
            listener.write(frames)


class Fanout:
    """All audiences of one server. Owned by one event loop."""

    def __init__(self, kinds: Iterable[Kind], clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._audiences: dict[Resource, dict[object, Audience]] = {kind.resource: {} for kind in kinds}
        self._demanding: dict[Resource, dict[Demand, set[Audience]]] = {r: {} for r in self._audiences}
        self._waiting: dict[Audience, None] = {}
        self._round: asyncio.Handle | None = None
        self._rest_until = 0.0
        self._ended = False

    def join(self, listener: Listener) -> None:
        """From now on, tell this listener of every change that it selects."""
        options = listener.options
        kind = options.selection.kind
        key = (options.selection, options.bookmarks, listener.form)
        audience = self._audiences[kind.resource].get(key)
        if audience is None:
            audience = self._audiences[kind.resource][key] = Audience(options, listener.form)
            self._demanding[kind.resource].setdefault(demand(options.selection), set()).add(audience)
        audience.join(listener)
        if self._ended:
            listener.end()

    def leave(self, listener: Listener) -> None:
        """Give it what waits for it, and tell it no more."""
        options = listener.options
        resource = options.selection.kind.resource
        key = (options.selection, options.bookmarks, listener.form)
        audience = self._audiences[resource].get(key)
        if audience is None:
            return
        audience.leave(listener)
        if not audience.listeners:
            del self._audiences[resource][key]
            self._waiting.pop(audience, None)
            wanted = demand(options.selection)
            self._demanding[resource][wanted].remove(audience)
            if not self._demanding[resource][wanted]:
                del self._demanding[resource][wanted]

    def tell(self, changes: Sequence[Transition]) -> None:
        """Note changes for those they concern; they go out in the next round."""
        now = self._clock()
        for change in changes:
            for audience in self._concerned(change):
                try:
                    audience.hear(change, now)
                except Exception:  # the writer and the other watchers go on; these clients list again
                    log.exception("the watchers of %s failed", change.kind.resource.qualified)
                    audience.end()
                if audience.waits:
                    self._waiting[audience] = None
        self._plan()

    def mark(self, revision: int) -> None:
        """Tell everybody how far the store has come."""
        now = self._clock()
        for audience in self._everybody():
            audience.mark(revision, now)
            if audience.waits:
                self._waiting[audience] = None
        self._plan()

    def end(self) -> None:
        """Tell everybody that the server stops, and whoever comes from now on."""
        self._ended = True
        for audience in tuple(self._everybody()):
            audience.end()

    def watchers(self) -> Mapping[Resource, int]:
        """How many listen to each resource."""
        return {
            resource: sum(len(audience.listeners) for audience in audiences.values())
            for resource, audiences in self._audiences.items()
        }

    def _everybody(self) -> Iterator[Audience]:
        for audiences in self._audiences.values():
            yield from audiences.values()

    def _concerned(self, change: Transition) -> list[Audience]:
        """The audiences whose demand the object met or meets, and those that demand nothing."""
        demanding = self._demanding[change.kind.resource]
        if not demanding:
            return []
        met = {NO_DEMAND, *_meets(change.kind, change.old), *_meets(change.kind, change.new)}
        return [audience for one in met for audience in demanding.get(one, ())]

    def _plan(self) -> None:
        if self._waiting and self._round is None:
            rest = max(self._rest_until - time.monotonic(), 0.0)
            self._round = asyncio.get_running_loop().call_later(rest, self._deliver)

    def _deliver(self) -> None:
        """One round. Its end is looked at two turns of the loop later: uvloop sends between them."""
        loop, began = asyncio.get_running_loop(), time.monotonic()
        waiting, self._waiting = self._waiting, {}
        for audience in waiting:
            audience.deliver()
        self._round = loop.call_soon(loop.call_soon, self._rest, began)

    def _rest(self, began: float) -> None:
        ended = time.monotonic()
        self._rest_until = ended + min(REST * (ended - began), LONGEST_REST)
        self._round = None
        self._plan()


def demand(selection: Selection) -> Demand:
    """The one value that a selection cannot do without and that is told apart the best."""
    for field, equal, value in selection.fields.terms:
        if equal:
            return field, value
    if selection.name:
        return "metadata.name", selection.name
    if selection.namespace:
        return "metadata.namespace", selection.namespace
    return NO_DEMAND


def _meets(kind: Kind, record: Record | None) -> Iterable[Demand]:
    return kind.fields(record.obj).items() if record is not None else ()
