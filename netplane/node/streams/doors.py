"""The paths of exec, attach and port-forward on the agent's port.

What can be refused is refused before the upgrade, in one line of text that the API server passes on; what goes wrong
after it is told inside the conversation.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from aiohttp import ClientConnectionResetError, web

from netplane.errors import PeerError
from netplane.node.pod_worker import PodWorker
from netplane.node.pods import Pods
from netplane.node.runtimes import Process, Sandbox
from netplane.node.streams.channels import V4, V5
from netplane.node.streams.conversation import Malformed, cause_of, close, converse
from netplane.node.streams.portforward import MAX_PORTS, SPDY, SpdyForward, forward_channels

log = logging.getLogger(__name__)

MAX_MESSAGE = 16 * 1024 * 1024
TRUE = ("true", "1")


class Streams:
    """Conversations with the pods of this node."""

    def __init__(self, pods: Pods) -> None:
        self._pods = pods

    def add_to(self, app: web.Application) -> None:
        """All paths."""
        app.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        app.router.add_get("/attach/{namespace}/{pod}/{container}", self._attach)
        app.router.add_get("/portForward/{namespace}/{pod}", self._forward)

    def _sandbox(self, request: web.Request) -> tuple[PodWorker, Sandbox]:
        """The pod that is asked for. Raises an HTTP refusal."""
        namespace, name = request.match_info["namespace"], request.match_info["pod"]
        worker = self._pods.find(namespace, name)
        if worker is None:
            raise web.HTTPNotFound(text=f"pod {namespace}/{name} is not on this node\n")
        if worker.sandbox is None or not worker.sandbox.alive:
            raise web.HTTPBadRequest(text=f"pod {name} is not running\n")
        return worker, worker.sandbox

    def _container(self, request: web.Request) -> tuple[PodWorker, Sandbox, str]:
        worker, sandbox = self._sandbox(request)
        name = request.match_info["container"]
        attempt = worker.attempt_of(name)
        if attempt is None or not worker.is_running(name, attempt):
            raise web.HTTPBadRequest(text=f'container not found ("{name}"): it does not run\n')
        return worker, sandbox, name

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        _, sandbox, container = self._container(request)
        argv = request.query.getall("command", [])
        if not argv:
            raise web.HTTPBadRequest(text="you must specify command\n")
        stdin, tty = (request.query.get(key) in TRUE for key in ("stdin", "tty"))
        ws = await _upgrade(request, V5, V4)
        open_process = sandbox.executing(container, argv, stdin=stdin, tty=tty)
        await _run(ws, lambda: _with(ws, open_process, attached=False))
        return ws

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        worker, sandbox, container = self._container(request)
        specs = (worker.pod.get("spec") or {}).get("containers") or []
        stdin = request.query.get("stdin") in TRUE and any(
            spec.get("stdin") for spec in specs if spec.get("name") == container
        )
        ws = await _upgrade(request, V5, V4)
        await _run(ws, lambda: _with(ws, sandbox.attached(container, stdin=stdin), attached=True))
        return ws

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        _, sandbox = self._sandbox(request)
        netns = sandbox.netns
        wanted = request.headers.get("Sec-WebSocket-Protocol", "")
        if SPDY in wanted:
            ws = await _upgrade(request, SPDY)
            await _run(ws, SpdyForward(ws, netns).run)
            return ws
        ports = _ports(request.query.getall("ports", []) + request.query.getall("port", []))
        # Some clients name no protocol; there was never another one for channels of ports.
        ws = await _upgrade(request, V4, default=True)
        await _run(ws, lambda: forward_channels(ws, netns, ports))
        return ws


def _ports(texts: list[str]) -> list[int]:
    numbers = [text.strip() for part in texts for text in part.split(",")]
    if not numbers or len(numbers) > MAX_PORTS:
        raise web.HTTPBadRequest(text=f"query parameter ports must name 1 to {MAX_PORTS} ports\n")
    for number in numbers:
        if not number.isascii() or not number.isdigit() or not 0 < int(number[:6]) < 65536:
            raise web.HTTPBadRequest(text=f"query parameter ports: {number!r} is not a port\n")
    return [int(number) for number in numbers]


async def _upgrade(request: web.Request, *protocols: str, default: bool = False) -> web.WebSocketResponse:
    """Raises an HTTP refusal when the client wants no WebSocket, or one that speaks nothing we do. ``default``: who
    names no protocol means ours.
    """
    ws = web.WebSocketResponse(protocols=protocols, compress=False, max_msg_size=MAX_MESSAGE)
    ready = ws.can_prepare(request)
    if not ready.ok:
        raise web.HTTPBadRequest(text="Upgrade request required: a WebSocket\n")
    if ready.protocol is None and not (default and "Sec-WebSocket-Protocol" not in request.headers):
        raise web.HTTPBadRequest(text=f"Sec-WebSocket-Protocol must be one of: {', '.join(protocols)}\n")
    await ws.prepare(request)
    return ws


async def _with(
    ws: web.WebSocketResponse, opening: AbstractAsyncContextManager[Process], *, attached: bool
) -> None:
    async with opening as process:
        if ws.ws_protocol == V4:
            await ws.send_bytes(b"\x01")  # as kubelet does: a client that waits for it may begin
        await converse(ws, process, attached=attached)


async def _run(ws: web.WebSocketResponse, conversation: Callable[[], Awaitable[None]]) -> None:
    """A conversation to its end. Nothing of it is left then, whichever side ended it."""
    problem: BaseException | None = None
    try:
        await conversation()
    except PeerError as error:
        problem = error
    except ClientConnectionResetError:
        return
    except ExceptionGroup as group:
        problem = cause_of(group)
        if problem is None:
            log.exception("a conversation with a pod failed", exc_info=group)
            problem = Malformed("internal error")
    await close(ws, problem)
