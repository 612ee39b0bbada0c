"""Events: what a person sees in `kubectl describe`. Best effort: they are dropped, never waited for.

An event that repeats counts up one object instead of making more. Source: core/v1 Event as client-go's recorder
writes it.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from netplane.errors import NetplaneError
from netplane.kube import errors
from netplane.kube.client import Client
from netplane.kube.objects import Object, name_of, namespace_of, rfc3339, uid_of
from netplane.kube.resources import EVENTS

log = logging.getLogger(__name__)

QUEUE_LIMIT = 1000
REMEMBERED = 2000
MESSAGE_LIMIT = 1024  # the API's own limit


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    namespace: str
    body: Object
    count: int


class Events:
    """Records events about objects of this node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(QUEUE_LIMIT)
        self._seen: OrderedDict[str, int] = OrderedDict()

    def warn(self, obj: Object, reason: str, message: str) -> None:
        """Something went wrong."""
        self._record(obj, "Warning", reason, message)

    def normal(self, obj: Object, reason: str, message: str) -> None:
        """Something happened as it should."""
        self._record(obj, "Normal", reason, message)

    def _record(self, obj: Object, kind: str, reason: str, message: str) -> None:
        message = message[:MESSAGE_LIMIT]
        key = "\0".join((uid_of(obj), obj.get("kind", ""), kind, reason, message))
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        count = self._seen.pop(digest, 0) + 1
        self._seen[digest] = count
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        namespace = namespace_of(obj) or "default"
        now = rfc3339(datetime.now(UTC))
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name_of(obj)}.{digest}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": obj.get("apiVersion", "v1"),
                "kind": obj.get("kind", "Pod"),
                "name": name_of(obj),
                "uid": uid_of(obj),
                **({"namespace": namespace_of(obj)} if namespace_of(obj) else {}),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": "netplane-node", "host": self._node},
            "reportingComponent": "netplane-node",
            "reportingInstance": self._node,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": count,
        }
        try:
            self._queue.put_nowait(_Event(body["metadata"]["name"], namespace, body, count))
        except asyncio.QueueFull:
            log.warning("event dropped: %s %s: %s", name_of(obj), reason, message)

    async def run(self, client: Client) -> None:
        """Write what is recorded, until cancelled."""
        while True:
            event = await self._queue.get()
            try:
                await self._write(client, event)
            except NetplaneError as error:
                log.info("cannot write event %s: %s", event.name, error)

    async def _write(self, client: Client, event: _Event) -> None:
        try:
            if event.count == 1:
                await client.create(EVENTS, event.body)
                return
        except errors.StatusError as error:
            if not errors.is_already_exists(error):
                raise
        again = {key: event.body[key] for key in ("count", "lastTimestamp")}
        try:
            await client.patch(EVENTS, event.name, again, namespace=event.namespace)
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
            await client.create(EVENTS, event.body)
