"""The door: HTTP in, one verb called, HTTP out. Nothing here knows what an object means.

Every answer that is not a success is a Status object, also those of the router; nothing but version and health
(and joining, whose token is its credential) is answered without a credential.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from aiohttp import web

from controlplane.api.discovery import VERSION, Discovery
from controlplane.api.failures import failure
from controlplane.api.kinds.kind import Asker
from controlplane.api.measures import Measures
from controlplane.api.reading import reads, watches
from controlplane.api.reading.fanout import Fanout
from controlplane.api.reading.represent import JSON, Representation, negotiate
from controlplane.api.reading.selection import flag, parse
from controlplane.api.reading.watches import Watcher
from controlplane.api.requests.authorization import authorize
from controlplane.api.requests.bodies import APPLY_PATCH, OBJECT_TYPES, an_object, decode, media_type
from controlplane.api.requests.callers import Callers
from controlplane.api.requests.route import Catalog, Route, find
from controlplane.api.schema.openapi import ROOT as OPENAPI
from controlplane.api.schema.openapi import OpenApi
from controlplane.api.streams.proxy import SUBRESOURCES as STREAMS
from controlplane.api.writing import views
from controlplane.api.writing.applies import apply
from controlplane.api.writing.deletes import delete, delete_collection
from controlplane.api.writing.evictions import evict
from controlplane.api.writing.lifecycle import delete_options
from controlplane.api.writing.orders import dry_if_said, order_for, stored
from controlplane.api.writing.patch import PATCHES
from controlplane.api.writing.subresources import SCALE_KIND, bind, finalize, scale_of, write_scale
from controlplane.api.writing.tokens import request_token
from controlplane.api.writing.writes import Machinery, Order, apply_patch, create, replace
from controlplane.auth.authn import User
from controlplane.auth.authz import JOIN_PATH, METRICS_PATH, allowed_path
from controlplane.store.contract import StoreError
from netplane import metrics
from netplane.kube.errors import (
    StatusError,
    internal,
    method_not_allowed,
    no_such_path,
    not_acceptable,
    unauthorized,
)
from netplane.kube.objects import Object
from netplane.kube.resources import PODS

log = logging.getLogger(__name__)

Join = Callable[[Object], Awaitable[Object]]
Streams = Callable[[web.Request, Object, str], Awaitable[web.StreamResponse]]
PATCH_TYPES = (*PATCHES, APPLY_PATCH)
_HEALTH = ("/healthz", "/readyz", "/livez")


@dataclass(frozen=True, slots=True)
class Doors:
    """What lies behind the paths outside the API's resources."""

    join: Join
    streams: Streams  # (request, pod, subresource): what the pod's node agent answers


class ApiServer:
    """The aiohttp side of the API; `answer` is the application's only handler."""

    def __init__(
        self,
        machinery: Machinery,
        callers: Callers,
        fanout: Fanout,
        kinds: Catalog,
        discovery: Discovery,
        measures: Measures,
        doors: Doors,
    ) -> None:
        self._machinery, self._hub = machinery, machinery.hub
        self._callers, self._fanout = callers, fanout
        self._kinds, self._discovery = kinds, discovery
        self._openapi = OpenApi(kinds.values())
        self._measures, self._doors = measures, doors

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request; what goes wrong becomes a Status."""
        started = time.monotonic()
        route: Route | None = None
        warnings: list[str] = []
        try:
            path = request.path.rstrip("/") or "/"
            user = self._callers.caller(request)
            if self._is_resource(path):
                if user is None:
                    raise unauthorized()
                watch = flag(request.query, "watch")
                route = find(self._kinds, request.method, path, watch=watch)
                pods = (record.obj for record in self._hub.all(PODS).values())
                authorize(user, route, request.query, pods)
                response = await self._resource(request, route, user, warnings)
            else:
                response = await self._other(request, path, user)
        except StatusError as error:
            response = status_response(error)
        except web.HTTPException as error:
            response = status_response(StatusError(error.status, "", error.reason))
        except StoreError as error:
            log.error("%s %s: %s", request.method, request.path, error)
            response = status_response(failure(error))
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            response = status_response(internal(f"{type(error).__name__}: {error}"))
        for warning in warnings if not response.prepared else ():
            response.headers.add("Warning", f'299 - "{_quoted(warning)}"')
        self._count(route, request, response.status, time.monotonic() - started)
        return response

    def _count(self, route: Route | None, request: web.Request, status: int, seconds: float) -> None:
        if route is None:
            self._measures.answered(request.method.lower(), "", "", "", status, seconds)
        else:
            resource = route.kind.resource
            self._measures.answered(
                route.verb, resource.group, resource.plural, route.subresource, status, seconds
            )

    def _is_resource(self, path: str) -> bool:
        parts = path.split("/")
        return (parts[1] == "api" and len(parts) > 3) or (parts[1] == "apis" and len(parts) > 4)

    async def _other(self, request: web.Request, path: str, user: User | None) -> web.StreamResponse:
        """Paths that are no resource. Raises StatusError."""
        method = request.method
        if not allowed_path(user, method.lower(), path):
            if user is None:
                raise unauthorized()
            text = f'User "{user.name}" cannot {method.lower()} path "{path}"'
            raise StatusError(403, "Forbidden", f"forbidden: {text}")
        if path == JOIN_PATH:
            if method != "POST":
                raise method_not_allowed()
            body = an_object(request.headers.get("Content-Type", ""), await request.read())
            return json_response(await self._doors.join(body))
        if method not in ("GET", "HEAD"):
            raise method_not_allowed() if self._known(path) else no_such_path()
        if path == "/version":
            return json_response(dict(VERSION))
        if path in _HEALTH or path.startswith(("/livez/", "/readyz/")):
            return web.Response(text="ok")
        if path == METRICS_PATH:
            return metrics.render(self._measures.registry)
        if path == "/":
            return json_response({"paths": ["/api", "/apis", *_HEALTH, METRICS_PATH, "/version"]})
        if path == OPENAPI or path.startswith(f"{OPENAPI}/"):
            return self._schemas(request, path)
        document, content_type = self._discovery.answer(path, request.headers.get("Accept", ""))
        return web.Response(body=orjson.dumps(document), headers={"Content-Type": content_type})

    def _schemas(self, request: web.Request, path: str) -> web.Response:
        """The index, or a document: one that is named by its hash may be kept for ever."""
        document = self._openapi.answer(path)
        headers = {"Content-Type": JSON, "ETag": f'"{document.hash}"', "Cache-Control": "no-cache, private"}
        if wanted := request.query.get("hash"):
            if wanted != document.hash:
                return web.Response(status=301, headers={"Location": f"{path}?hash={document.hash}"})
            headers["Cache-Control"] = "public, immutable, max-age=31536000"
        if document.hash in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        return web.Response(body=document.body, headers=headers)

    def _known(self, path: str) -> bool:
        return path in ("/", "/version", "/api", "/apis", METRICS_PATH, *_HEALTH)

    async def _resource(
        self, request: web.Request, route: Route, user: User, warnings: list[str]
    ) -> web.StreamResponse:
        if route.verb == "watch":
            return await self._watch(request, route)
        if route.subresource in STREAMS:
            record = reads.get(self._hub, route.kind, route.namespace, route.name)
            return await self._doors.streams(request, record.obj, route.subresource)
        if route.verb == "get":
            return await self._get(request, route)
        if route.verb == "list":
            return await self._list(request, route)
        content_type, body = request.headers.get("Content-Type", ""), await request.read()
        order = order_for(route, user, warnings, request.query, request.headers, body)
        if route.verb in ("delete", "deletecollection"):
            return await self._delete(request, order, decode(content_type, body))
        if route.subresource not in ("", "status"):
            return json_response(await self._subresource(order, content_type, body), _created(route))
        return await self._write(self._form(request, route), order, content_type, body)

    async def _write(
        self, form: Representation, order: Order, content_type: str, body: bytes
    ) -> web.StreamResponse:
        """POST, PUT or PATCH of an object or its status. Raises StatusError."""
        route, media = order.route, media_type(content_type)
        sent = (
            decode(content_type, body, PATCH_TYPES)
            if route.verb == "patch"
            else an_object(content_type, body)
        )
        if route.kind.view is not None:
            obj = await views.write(self._machinery, order, route.kind.view, media, sent)
            return self._one(form, obj, route, _created(route))
        if media == APPLY_PATCH:
            obj, new = await apply(self._machinery, order, sent)
            return self._one(form, obj, route, 201 if new else 200)
        if route.kind.ask is not None:
            if form.form != "json":
                raise not_acceptable("only the following media types are accepted: application/json")
            return json_response(route.kind.ask(Asker(order.user, self._callers.authenticate), sent), 201)
        if route.verb == "create":
            obj = await create(self._machinery, order, sent)
        elif route.verb == "update":
            obj = await replace(self._machinery, order, sent)
        else:
            obj = await apply_patch(self._machinery, order, media, sent)
        return self._one(form, obj, route, _created(route))

    def _one(self, form: Representation, obj: Object, route: Route, code: int = 200) -> web.Response:
        body = form.of_object(obj, route.stored.kind, self._machinery.clock())
        return web.Response(body=body, status=code, headers={"Content-Type": form.content_type})

    def _form(self, request: web.Request, route: Route) -> Representation:
        """How the client wants its answer. Raises StatusError 400 or 406."""
        return negotiate(request.headers.get("Accept", ""), request.query, route.kind.view)

    async def _get(self, request: web.Request, route: Route) -> web.StreamResponse:
        kind = route.stored.kind
        record = reads.get(self._hub, kind, route.namespace, route.name)
        form = self._form(request, route)
        if route.subresource == "scale":
            scale = scale_of(kind, record.obj)
            body = form.of_object(scale, SCALE_KIND, self._machinery.clock())
        else:
            body = form.of(record, kind, self._machinery.clock())
        return web.Response(body=body, headers={"Content-Type": form.content_type})

    async def _list(self, request: web.Request, route: Route) -> web.Response:
        form, kind = self._form(request, route), route.stored.kind
        options = parse(kind, route.namespace, route.name, request.query, watch=False)
        found = await reads.listing(self._hub, options)
        body = form.of_list(found.records, kind, found.meta, self._machinery.clock())
        return web.Response(body=body, headers={"Content-Type": form.content_type})

    async def _delete(self, request: web.Request, order: Order, body: object) -> web.Response:
        options = delete_options(body, request.query)
        order, route = dry_if_said(stored(order), body), order.route
        if route.verb == "delete":
            obj = await delete(self._machinery, order, options)
            if obj.get("kind") == "Status":
                return json_response(obj)
            return self._one(self._form(request, route), obj, route)
        kind = route.stored.kind
        chosen = parse(kind, route.namespace, "", request.query, watch=False)
        found = await reads.listing(self._hub, chosen)
        await delete_collection(self._machinery, order, found, options)
        return web.Response(
            body=Representation(view=route.kind.view).of_list(
                found.records, kind, found.meta, self._machinery.clock()
            ),
            headers={"Content-Type": JSON},
        )

    async def _subresource(self, order: Order, content_type: str, body: bytes) -> Object:
        match order.route.subresource:
            case "scale":
                media = media_type(content_type)
                supported = PATCHES if order.route.verb == "patch" else OBJECT_TYPES
                wanted = decode(content_type, body, supported)
                sent = media if order.route.verb == "patch" else JSON
                return await write_scale(self._machinery, order, sent, wanted)
            case "binding":
                return await bind(self._machinery, order, an_object(content_type, body))
            case "eviction":
                return await evict(self._machinery, order, an_object(content_type, body))
            case "token":
                asked = an_object(content_type, body)
                return request_token(self._machinery, self._callers.issuer, order, asked)
            case "finalize":
                return await finalize(self._machinery, order, an_object(content_type, body))
        raise no_such_path()

    async def _watch(self, request: web.Request, route: Route) -> web.StreamResponse:
        form = self._form(request, route)
        options = parse(route.stored.kind, route.namespace, route.name, request.query, watch=True)
        response = web.StreamResponse(
            headers={"Content-Type": form.content_type, "Cache-Control": "no-cache"}
        )
        response.enable_chunked_encoding()
        writer = await response.prepare(request)
        if writer is None or request.transport is None:
            return response
        writer.send_headers()  # from here on the watcher writes its own chunks
        watcher = Watcher(options, form, request.transport, self._machinery.clock)
        try:
            await watches.run(self._hub, self._fanout, watcher, writer.drain)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            request.transport.abort()  # the head is out: a cut connection is the only answer left
        return response


def _created(route: Route) -> int:
    return 201 if route.verb == "create" else 200


def _quoted(text: str) -> str:
    """The inside of a quoted-string (RFC 9110, 5.6.4) on one line."""
    return " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"')


def json_response(body: Object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(body=orjson.dumps(body), status=status, headers={"Content-Type": JSON})


def status_response(error: StatusError) -> web.Response:
    """An error as the Status it is."""
    response = json_response(error.status, error.code)
    if seconds := error.details.get("retryAfterSeconds"):
        response.headers["Retry-After"] = str(seconds)
    return response
