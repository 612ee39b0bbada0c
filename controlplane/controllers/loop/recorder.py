"""Events tell people what controllers did, without flooding them or the store.

The same message about the same object is one Event whose count grows; many different messages for one reason
are combined into one; and an object has a budget. Sources: client-go ``tools/record/events_cache.go``
(25 at once, then one in five minutes; combined from the eleventh different message in ten minutes).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn

from controlplane.controllers.actions import Create, Patch, Record
from netplane.errors import NetplaneError
from netplane.kube import errors
from netplane.kube.client import Client
from netplane.kube.objects import (
    ObjectKey,
    key_of,
    name_of,
    namespace_of,
    resource_version_of,
    rfc3339,
    uid_of,
)
from netplane.kube.resources import EVENTS

log = logging.getLogger(__name__)

REMEMBERED = 4096  # objects and messages; the oldest are forgotten first
BURST, REFILL_SECONDS = 25.0, 300.0
SIMILAR, SIMILAR_WINDOW = 10, timedelta(minutes=10)

Subject = tuple[str, ...]


@dataclass(slots=True)
class _Series:
    key: ObjectKey
    count: int


@dataclass(slots=True)
class _Similar:
    since: datetime
    messages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Budget:
    tokens: float
    when: datetime


class EventLog:
    """Which request, if any, an Event to record becomes. Pure: the time comes with each call."""

    def __init__(self, component: str) -> None:
        self._component = component
        self._last_stamp = 0
        self._series: OrderedDict[Subject, _Series] = OrderedDict()
        self._similar: OrderedDict[Subject, _Similar] = OrderedDict()
        self._budgets: OrderedDict[Subject, _Budget] = OrderedDict()

    def plan(self, record: Record, now: datetime) -> Create | Patch | None:
        """A new Event, a higher count on a known one, or None where the object's budget is spent."""
        subject = (record.about.get("kind", ""), *key_of(record.about), uid_of(record.about))
        if not self._spend(subject, now):
            return None
        message = self._combined((*subject, record.kind, record.reason), record.message, now)
        identity = (*subject, record.kind, record.reason, message or "")
        text = record.message if message else f"(combined from similar events): {record.message}"
        if (known := self._series.get(identity)) is not None:
            known.count += 1
            self._series.move_to_end(identity)
            body = {"count": known.count, "lastTimestamp": rfc3339(now), "message": text}
            return Patch(EVENTS, known.key, body)
        event = self._event(record, text, now)
        _remember(self._series, identity, _Series(key_of(event), 1))
        return Create(EVENTS, event)

    def forget(self, key: ObjectKey) -> None:
        """The Event is gone from the API: the next one like it is created anew."""
        for identity in [i for i, series in self._series.items() if series.key == key]:
            del self._series[identity]

    def _spend(self, subject: Subject, now: datetime) -> bool:
        budget = self._budgets.get(subject)
        if budget is None:
            budget = _Budget(BURST, now)
            _remember(self._budgets, subject, budget)
        elapsed = (now - budget.when).total_seconds()
        budget.tokens = min(BURST, budget.tokens + elapsed / REFILL_SECONDS)
        budget.when = now
        if budget.tokens < 1:
            return False
        budget.tokens -= 1
        return True

    def _combined(self, identity: Subject, message: str, now: datetime) -> str | None:
        """The message that identifies the series; None where too many differ to keep them apart."""
        similar = self._similar.get(identity)
        if similar is None or now - similar.since > SIMILAR_WINDOW:
            similar = _Similar(now)
            _remember(self._similar, identity, similar)
        similar.messages.add(message)
        return message if len(similar.messages) <= SIMILAR else None

    def _event(self, record: Record, text: str, now: datetime) -> dict[str, Any]:
        about = record.about
        namespace = namespace_of(about) or "default"
        # Microseconds since the epoch make the name unique, as client-go's nanoseconds do.
        stamp = self._last_stamp = max(int(now.timestamp() * 1_000_000), self._last_stamp + 1)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name_of(about)}.{stamp:x}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": about.get("apiVersion", ""),
                "kind": about.get("kind", ""),
                "namespace": namespace_of(about),
                "name": name_of(about),
                "uid": uid_of(about),
                "resourceVersion": resource_version_of(about),
            },
            "type": record.kind,
            "reason": record.reason,
            "message": text[:1024],
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": "",
            "firstTimestamp": rfc3339(now),
            "lastTimestamp": rfc3339(now),
            "count": 1,
        }


class Recorder:
    """Writes Events in the background; a controller never waits for one, and never fails by one."""

    def __init__(self, client: Client, component: str, now: Callable[[], datetime]) -> None:
        self._client = client
        self._log = EventLog(component)
        self._now = now
        self._waiting: asyncio.Queue[Record] = asyncio.Queue(maxsize=1000)

    def record(self, record: Record) -> None:
        """Queue one; when a thousand wait already, the newest is dropped."""
        try:
            self._waiting.put_nowait(record)
        except asyncio.QueueFull:
            log.warning("dropping event %s about %s", record.reason, key_of(record.about))

    async def run(self) -> NoReturn:
        """Write what is queued, for ever."""
        while True:
            await self._write(await self._waiting.get())

    async def _write(self, record: Record) -> None:
        try:
            match self._log.plan(record, self._now()):
                case Create(resource, event):
                    await self._client.create(resource, event)
                case Patch(resource, key, body):
                    await self._raise_count(record, key, body)
                case None:
                    pass
        except NetplaneError as error:
            log.warning("event %s about %s: %s", record.reason, key_of(record.about), error)

    async def _raise_count(self, record: Record, key: ObjectKey, body: dict[str, Any]) -> None:
        try:
            await self._client.patch(EVENTS, key.name, body, namespace=key.namespace)
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
            self._log.forget(key)
            if isinstance(fresh := self._log.plan(record, self._now()), Create):
                await self._client.create(EVENTS, fresh.object)


def _remember(memory: OrderedDict[Subject, Any], key: Subject, value: object) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
