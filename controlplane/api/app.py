"""The API server put together: store, memory, rules and door, for one event loop."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiohttp import web

from controlplane.api.discovery import Discovery
from controlplane.api.http import ApiServer, Doors
from controlplane.api.kinds.kind import Kind
from controlplane.api.measures import Measures
from controlplane.api.memory.hub import Hub
from controlplane.api.reading.fanout import Fanout
from controlplane.api.requests.bodies import MAX_BODY
from controlplane.api.requests.callers import Callers
from controlplane.api.requests.route import catalog
from controlplane.api.writing.admission import Admission, AllocateService
from controlplane.api.writing.pod_admission import USUAL, Patience
from controlplane.api.writing.writes import Machinery
from controlplane.auth.tokens import Issuer
from controlplane.store.contract import Delete, Stale, Store, StoreError
from netplane.kube.objects import Object, meta, parse_time
from netplane.kube.resources import EVENTS

log = logging.getLogger(__name__)

BOOKMARK_SECONDS = 10.0  # also how soon a client notices a dead connection
COMPACT_SECONDS = 300.0
EVENT_LIFE = timedelta(hours=1)  # kube-apiserver's --event-ttl


@dataclass(frozen=True, slots=True)
class Api:
    """A server that has read its store: `application` answers, `keep` does what time asks for."""

    machinery: Machinery
    callers: Callers
    fanout: Fanout
    kinds: tuple[Kind, ...]
    address: str

    def application(self, doors: Doors) -> web.Application:
        """What aiohttp serves."""
        measures, discovery = Measures(self.hub, self.fanout), Discovery(self.kinds, self.address)
        server = ApiServer(
            self.machinery, self.callers, self.fanout, catalog(self.kinds), discovery, measures, doors
        )
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_route("*", "/{path:.*}", server.answer)
        return application

    @property
    def hub(self) -> Hub:
        """The cluster in memory."""
        return self.machinery.hub

    async def keep(self) -> None:
        """Bookmarks, compaction, and the end of old Events; for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(BOOKMARK_SECONDS, self._bookmark))
            group.create_task(self._compact())

    async def _every(self, seconds: float, action: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            action()

    def _bookmark(self) -> None:
        self.fanout.mark(self.hub.revision)

    async def _compact(self) -> None:
        """Keep between one and two periods of history: a watcher that is away for less need not list."""
        while True:
            then = self.hub.revision
            await asyncio.sleep(COMPACT_SECONDS)
            try:
                await drop_old_events(self.hub, self.machinery.clock())
                await self.hub.store.compact(then)
            except StoreError as error:
                log.error("the log is not compacted: %s", error)  # the next period tries again


async def build(
    store: Store,
    kinds: Iterable[Kind],
    *,
    allocate_service: AllocateService,
    issuer: Issuer,
    address: str,
    patience: Patience = USUAL,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Api:
    """Read the store into memory. ``issuer`` signs tokens; ``address`` (host:port) is what discovery names.

    ``patience`` is what pods have with their nodes where they say nothing of it.
    """
    served = tuple(kinds)
    hub = Hub(store, served)
    await hub.load()
    fanout = Fanout(served, clock)
    hub.subscribe(fanout.tell)
    machinery = Machinery(hub, Admission(hub, allocate_service, patience), clock)
    return Api(machinery, Callers(hub, issuer, clock), fanout, served, address)


async def drop_old_events(hub: Hub, now: datetime) -> None:
    """Remove the Events that nothing has repeated for EVENT_LIFE."""
    for record in list(hub.all(EVENTS).values()):
        if _last_seen(record.obj) < now - EVENT_LIFE:
            try:
                await hub.store.commit(Delete(record.key, record.revision))
            except Stale:
                continue  # it has just been repeated


def _last_seen(event: Object) -> datetime:
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        meta(event).get("creationTimestamp"),
    )
    for text in times:
        try:
            return parse_time(str(text))
        except ValueError:
            continue
    return datetime.max.replace(tzinfo=UTC)
