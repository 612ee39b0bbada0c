"""The one place that talks HTTP to an API server, ours or a real Kubernetes: ``Client`` is its verbs."""

import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

from netplane.errors import PeerError
from netplane.kube import errors
from netplane.kube.kubeconfig import Bearer, Kubeconfig
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import Resource

PATCH_TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}
WATCH_SECONDS = 300  # the server ends a watch after this long, so that no dead connection is believed
WATCH_SILENCE = 90.0  # bookmarks or heartbeats arrive more often than this, or the connection is dead
STREAMING_LIST = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
MAX_LINE = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A list's answer: the objects and the revision at which they were all true."""

    items: list[Object]
    resource_version: str


class Client:
    """The API's verbs for one identity. Use it as an async context manager.

    Every verb raises StatusError for an answer that is an error, and PeerError where no answer came.
    """

    def __init__(self, kubeconfig: Kubeconfig, *, user_agent: str = "netplane") -> None:
        self.kubeconfig = kubeconfig
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        self._bearer = Bearer(kubeconfig)
        self._ssl = kubeconfig.ssl_context()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # No connection limit: every followed resource keeps one connection open for its watch.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._ssl if self._ssl is not None else False)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=30, sock_connect=5),
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        """One object."""
        return await self._json("GET", resource.path(namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> ObjectList:
        """All objects that match. Items get their ``apiVersion`` and ``kind``, which lists leave out."""
        query = _selectors(label_selector, field_selector)
        body = await self._json("GET", resource.path(namespace), query=query)
        items = [
            {"apiVersion": resource.api_version, "kind": resource.kind, **o} for o in body.get("items") or []
        ]
        return ObjectList(items, str(body.get("metadata", {}).get("resourceVersion") or ""))

    async def create(
        self, resource: Resource, obj: Object, namespace: str | None = None, *, subresource: str = ""
    ) -> Object:
        """POST an object into its namespace, or into ``namespace`` where it names none."""
        where = namespace or namespace_of(obj)
        name = name_of(obj) if subresource else None
        return await self._json("POST", resource.path(where, name, subresource), body=obj)

    async def replace(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """PUT an object; its resourceVersion, when present, must still be current."""
        return await self._json("PUT", resource.path(namespace_of(obj), name_of(obj), subresource), body=obj)

    async def patch(
        self,
        resource: Resource,
        name: str,
        body: Any,
        *,
        namespace: str | None = None,
        kind: str = "merge",
        subresource: str = "",
    ) -> Object:
        """PATCH by ``merge``, ``strategic`` or ``json``."""
        path = resource.path(namespace, name, subresource)
        return await self._json("PATCH", path, body=body, content_type=PATCH_TYPES[kind])

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        grace_seconds: int | None = None,
        propagation: str | None = None,
        uid: str | None = None,
    ) -> Object:
        """DELETE, optionally only the object with this ``uid``. The object or a Status comes back."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        return await self._json("DELETE", resource.path(namespace, name), body=options)

    async def raw(self, method: str, path: str, body: Any = None) -> Object:
        """Any other path of the server, such as ``/version``."""
        return await self._json(method, path, body=body)

    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        initial: bool = False,
    ) -> AsyncIterator[dict[str, Any]]:
        """Events after a revision, until the server ends the watch. An ERROR event raises StatusError.

        ``initial``: first of all an ADDED for each object there is, and a bookmark that says where these end
        (Kubernetes 1.27 or newer; others refuse with 422).
        """
        query = {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS + random.randrange(WATCH_SECONDS)),
            **(STREAMING_LIST if initial else {}),
            **_selectors(label_selector, field_selector),
        }
        session = self._open_session()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=WATCH_SILENCE)
        path = resource.path(namespace)
        try:
            url = self.kubeconfig.server + path
            headers = self._bearer.headers
            async with session.get(url, params=query, headers=headers, timeout=timeout) as response:
                if response.status != 200:
                    raise errors.from_response(response.status, await response.read())
                async for event in _events(response.content):
                    if event.get("type") == "ERROR":
                        raise errors.from_status(500, event.get("object") or {})
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._peer_error("watch", path, error) from None

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        session = self._open_session()
        data = orjson.dumps(body) if body is not None else None
        headers = self._bearer.headers | ({"Content-Type": content_type} if data is not None else {})
        url = self.kubeconfig.server + path
        try:
            async with session.request(method, url, params=query, data=data, headers=headers) as response:
                answer = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._peer_error(method, path, error) from None
        if status >= 400:
            raise errors.from_response(status, answer)
        try:
            parsed = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise self._peer_error(method, path, error) from None
        if not isinstance(parsed, dict):
            raise self._peer_error(method, path, TypeError("the answer is not an object"))
        return parsed

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use `async with Client(...)`")
        return self._session

    def _peer_error(self, action: str, path: str, error: BaseException) -> PeerError:
        cause = str(error) or type(error).__name__
        return PeerError(f"cannot {action.lower()} {path} at {self.kubeconfig.server}: {cause}")


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    query = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in query.items() if value}


async def _events(stream: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Newline-separated JSON, however the chunks fall."""
    rest = b""
    async for chunk in stream.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:
            raise aiohttp.ClientPayloadError("a watch event is larger than 16 MiB")
        for line in lines:
            if line.strip():
                yield orjson.loads(line)


class Backoff:
    """Delays that double from ``first`` to ``limit`` seconds, each shortened at random by up to a half."""

    def __init__(self, first: float = 0.1, limit: float = 10.0) -> None:
        self._first, self._limit = first, limit
        self._next = first

    def reset(self) -> None:
        """Success: begin again at the first delay."""
        self._next = self._first

    def delay(self) -> float:
        """Seconds to wait now; the next one is longer."""
        now, self._next = self._next, min(self._next * 2, self._limit)
        return now * random.uniform(0.5, 1.0)
