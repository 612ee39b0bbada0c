"""The agent's own door, 10250: logs, conversations with containers, and pods; for the API server alone.

Everyone else is turned away: no client certificate 401, one of our CA with another name 403, any other fails in TLS.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from aiohttp import web

from netplane.errors import ConfigError, KernelError, cause_of
from netplane.kube.objects import Object
from netplane.node import logs
from netplane.node.pods import Pods
from netplane.node.streams.doors import Streams

API_SERVER_NAME = "kube-apiserver-kubelet-client"

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files: whom we believe, and who we are."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """TLS in which a client certificate is asked for. Raises ConfigError naming the file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Asked for, not required: who has none is told so in words (401).
        context.verify_mode = ssl.CERT_OPTIONAL
        try:
            context.load_verify_locations(cafile=str(self.ca))
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            names = f"{self.ca}, {self.certificate}, {self.key}"
            raise ConfigError(f"cannot use the agent's certificates ({names}): {cause_of(error)}") from None
        return context


def common_name(certificate: object) -> str:
    """The CN of what `getpeercert` gives; "" for none."""
    if not isinstance(certificate, dict):
        return ""
    pairs = [pair for rdn in certificate.get("subject", ()) for pair in rdn]
    return next((str(value) for key, value in pairs if key == "commonName"), "")


@web.middleware
async def only_the_api_server(request: web.Request, handler: Endpoint) -> web.StreamResponse:
    """The gate before every path, health included."""
    certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
    if not certificate:
        return web.Response(status=401, text="Unauthorized: a client certificate is needed\n")
    if (name := common_name(certificate)) != API_SERVER_NAME:
        return web.Response(status=403, text=f"Forbidden: {name} is not the API server\n")
    return await handler(request)


class AgentServer:
    """What the API server may ask of this node."""

    def __init__(self, pods: Pods, log_file: Callable[[Object, str, int], Path]) -> None:
        self._pods = pods
        self._log_file = log_file

    def app(self) -> web.Application:
        """All paths, behind the gate."""
        app = web.Application(middlewares=[only_the_api_server])
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/pods", self._list)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        Streams(self._pods).add_to(app)
        return app

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _list(self, request: web.Request) -> web.Response:
        body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._pods.objects()}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        namespace, name, container = (request.match_info[key] for key in ("namespace", "pod", "container"))
        worker = self._pods.find(namespace, name)
        if worker is None:
            return web.Response(status=404, text=f"pod {namespace}/{name} is not on this node\n")
        attempt = worker.attempt_of(container)
        if attempt is None:
            # kubelet's words, here and below: people know them.
            reason = _waiting(worker.pod, container)
            text = f'container "{container}" in pod "{name}" is waiting to start: {reason}\n'
            return web.Response(status=400, text=text)
        previous = request.query.get("previous") in ("true", "1")
        wanted = attempt - 1 if previous else attempt
        path = self._log_file(worker.pod, container, wanted)
        if wanted < 0 or (previous and not path.exists()):
            text = f'previous terminated container "{container}" in pod "{name}" not found\n'
            return web.Response(status=400, text=text)
        try:
            options = logs.LogOptions.parse(request.query, datetime.now(UTC))
        except ValueError as error:
            return web.Response(status=400, text=f"{error}\n")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async with aclosing(
            logs.read(path, options, lambda: not worker.is_running(container, wanted))
        ) as lines:
            async for line in lines:
                await response.write(line)
        await response.write_eof()
        return response


def _waiting(pod: Object, container: str) -> str:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    states = [status.get("state") or {} for status in statuses if status.get("name") == container]
    reasons = [(state.get("waiting") or {}).get("reason") for state in states]
    return next((str(reason) for reason in reasons if reason), "ContainerCreating")


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int, tls: ssl.SSLContext) -> AsyncIterator[None]:
    """Answer while the context is open. Raises KernelError naming the address that cannot be bound."""
    # Cancellation: a log that is followed ends with who follows it, not with its next line.
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError as error:
            raise KernelError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        yield
    finally:
        async with asyncio.timeout(5):
            await runner.cleanup()
