"""A cache kept true for as long as the process lives: list, watch, list again when history is gone.

Why apart from the verbs: servers differ in what they can (an older version of a resource, a watch that begins with
what is there), and a server that is away must cost time only. What was known stays known meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn

import orjson

from netplane.errors import PeerError
from netplane.kube import errors
from netplane.kube.cache import Cache, Change
from netplane.kube.client import Backoff, Client, ObjectList
from netplane.kube.objects import Object, ObjectKey, annotations_of, key_of, resource_version_of
from netplane.kube.older import Older
from netplane.kube.resources import Resource

log = logging.getLogger(__name__)

INITIAL_EVENTS_END = "k8s.io/initial-events-end"  # a bookmark's annotation (KEP-3157)


async def follow(
    client: Client,
    cache: Cache,
    *,
    namespace: str | None = None,
    label_selector: str = "",
    field_selector: str = "",
    on_change: Callable[[Change], None] = lambda change: None,
    on_synced: Callable[[], None] = lambda: None,
    older: Older | None = None,
    streaming: bool = False,
) -> NoReturn:
    """Keep ``cache`` true for ever. ``on_synced`` is called after each complete list has been handed out.

    A server that is away, refuses or forgets costs time, never knowledge: the cache keeps what it had.
    Permission errors are retried too (credentials may be granted later), and logged each time they change.
    ``older``: what to ask for where the server does not know the resource. ``streaming``: begin by a watch that
    tells what is there, where the server offers that, instead of by a list.
    """
    backoff = Backoff()
    last_problem = ""
    selectors = {"label_selector": label_selector, "field_selector": field_selector}
    source = _Source(client, cache.resource, older, namespace, selectors, streaming=streaming)
    while True:
        try:
            started = time.monotonic()
            if cache.resource_version:
                watch = source.watch(cache.resource_version)
            else:
                listed, watch = await source.begin()
                cache.last_contact = started = time.monotonic()
                for change in cache.replace(listed.items, listed.resource_version):
                    on_change(change)
                on_synced()
            async for event in watch:
                cache.last_contact = time.monotonic()
                backoff.reset()
                last_problem = ""
                if found := cache.apply(event):
                    on_change(found)
            if time.monotonic() - started < 1:
                await asyncio.sleep(backoff.delay())  # a server that ends watches at once is not hammered
        except (errors.StatusError, PeerError, orjson.JSONDecodeError) as error:
            if isinstance(error, errors.StatusError):
                cache.resource_version = ""  # list again: what we asked for cannot be continued
                if source.yield_to(error):
                    continue
            if str(error) != last_problem:
                last_problem = str(error)
                log.warning("following %s: %s", cache.resource.qualified, error)
            await asyncio.sleep(backoff.delay())


Events = AsyncIterator[dict[str, Any]]


class _Source:
    """How one resource is read from one server: in which version, and by list or by a watch that begins whole."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        older: Older | None,
        namespace: str | None,
        selectors: Mapping[str, str],
        *,
        streaming: bool,
    ) -> None:
        self._client = client
        self._resource = resource
        self._older = older
        self._where: dict[str, Any] = {"namespace": namespace, **selectors}
        self._streaming = streaming
        self._aged = False

    @property
    def _spoken(self) -> Resource:
        return self._older.resource if self._older is not None and self._aged else self._resource

    def _modern(self, obj: Object) -> Object:
        return self._older.modern(obj) if self._older is not None and self._aged else obj

    async def watch(self, resource_version: str, *, initial: bool = False) -> Events:
        """Events of our version."""
        events = self._client.watch(
            self._spoken, resource_version=resource_version, initial=initial, **self._where
        )
        async for event in events:
            yield {**event, "object": self._modern(event["object"])}

    async def begin(self) -> tuple[ObjectList, Events]:
        """All there is, and what happens after it."""
        if self._streaming:
            watch = self.watch("", initial=True)
            return await _initial(watch), watch
        listed = await self._client.list(self._spoken, **self._where)
        items = [self._modern(item) for item in listed.items]
        return ObjectList(items, listed.resource_version), self.watch(listed.resource_version)

    def yield_to(self, error: errors.StatusError) -> bool:
        """Ask in another way where this answer says that the server does not know ours; whether there is one."""
        if self._streaming and error.code in (400, 422):
            self._streaming = False
            return True
        if self._older is not None and error.code == 404:
            self._aged = not self._aged
            log.info("%s is not served: trying %s", self._resource.api_version, self._spoken.api_version)
            return self._aged
        return False


async def _initial(watch: Events) -> ObjectList:
    """What a watch tells of at its beginning. Raises PeerError where it ends before that is complete."""
    items: dict[ObjectKey, Object] = {}
    async for event in watch:
        obj = event["object"]
        if event["type"] == "BOOKMARK":
            if annotations_of(obj).get(INITIAL_EVENTS_END) == "true":
                return ObjectList(list(items.values()), resource_version_of(obj))
        elif event["type"] == "DELETED":
            items.pop(key_of(obj), None)
        else:
            items[key_of(obj)] = obj
    raise PeerError("cannot list: the watch ended before it had told of everything")
