"""An API server of Kubernetes 1.19's manners, over HTTP: EndpointSlices as v1beta1, no watch that begins whole.

Why a fake: a real one takes minutes to build and seconds to start. What it does is held against ours and against a real
one of 1.20 by the same tests (tests/contract/controlplane_api/test_following.py; the real one in the long tier).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

from netplane.kube import errors
from netplane.kube.objects import Object
from netplane.kube.resources import ENDPOINTSLICES

PATH = "/apis/discovery.k8s.io/v1beta1/endpointslices"


class OldApi:
    """``gone_as``: how it says that history is gone, as an answer with code 410 or as an ERROR event."""

    def __init__(self, gone_as: str = "event") -> None:
        self.port = 0
        self.asked: list[str] = []  # paths, with what was wanted of them
        self._gone_as = gone_as
        self._revision = 100
        self._oldest = 0
        self._objects: dict[str, Object] = {}
        self._log: list[tuple[int, str, Object]] = []
        self._news = asyncio.Condition()
        self._ended = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            self._ended = True
            await self._wake()
            await runner.cleanup()

    async def put(self, obj: Object) -> None:
        name = obj["metadata"]["name"]
        kind = "MODIFIED" if name in self._objects else "ADDED"
        self._objects[name] = obj
        await self._tell(kind, obj)

    async def delete(self, name: str) -> None:
        await self._tell("DELETED", self._objects.pop(name))

    async def forget(self) -> str:
        """All history is gone; a revision that is older than what is kept."""
        before = str(self._revision)
        self._revision += 10
        self._oldest = self._revision
        return before

    async def _tell(self, kind: str, obj: Object) -> None:
        self._revision += 1
        obj["metadata"]["resourceVersion"] = str(self._revision)
        self._log.append((self._revision, kind, {**obj, "metadata": dict(obj["metadata"])}))
        await self._wake()

    async def _wake(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        wanted = "streaming" if "sendInitialEvents" in query else "watch" if "watch" in query else "list"
        self.asked.append(f"{wanted} {request.path}")
        if request.path != PATH:
            return web.Response(status=404, text="404 page not found\n")
        if "resourceVersionMatch" in query and "watch" in query:
            cause = errors.Cause(
                "resourceVersionMatch", "Forbidden: resourceVersionMatch is forbidden for watch"
            )
            return _refusal(errors.invalid(ENDPOINTSLICES, "", [cause]))
        if "watch" in query:
            return await self._watch(request, int(query["resourceVersion"]))
        items = list(self._objects.values())
        return web.json_response({"metadata": {"resourceVersion": str(self._revision)}, "items": items})

    async def _watch(self, request: web.Request, since: int) -> web.StreamResponse:
        gone = errors.expired(f"too old resource version: {since} ({self._oldest})")
        if since < self._oldest and self._gone_as == "answer":
            return _refusal(gone)
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self._oldest:
            await response.write(_line("ERROR", gone.status))
            return response
        position = 0
        while not self._ended:
            async with self._news:
                while len(self._log) <= position and not self._ended:
                    await self._news.wait()
            for revision, kind, obj in self._log[position:]:
                position += 1
                if revision > since:
                    await response.write(_line(kind, obj))
        return response


def _refusal(error: errors.StatusError) -> web.Response:
    return web.json_response(error.status, status=error.code)


def _line(kind: str, obj: Any) -> bytes:
    return orjson.dumps({"type": kind, "object": obj}) + b"\n"
