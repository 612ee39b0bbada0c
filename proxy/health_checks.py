"""healthCheckNodePort: a load balancer outside asks each node whether it has endpoints of a Service.

Why word for word as kube-proxy: cloud controllers were written against its answers (``pkg/proxy/healthcheck``).
200 with at least one local endpoint, while the proxy itself is healthy; else 503.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import orjson
from aiohttp import web

from netplane.errors import KernelError
from netplane.metrics import serve_http
from proxy.model import HealthCheck

log = logging.getLogger(__name__)


def answer(check: HealthCheck, *, healthy: bool) -> web.Response:
    """What a load balancer is told."""
    body = {
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": healthy,
    }
    status = 200 if check.local_endpoints and healthy else 503
    headers = {
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints),
    }
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json", headers=headers
    )


class HealthChecks:
    """One HTTP server for each port that a Service asks for. ``healthy``: whether the proxy is."""

    def __init__(self, healthy: Callable[[], bool]) -> None:
        self._healthy = healthy
        self._open: dict[int, AsyncExitStack] = {}
        self._wanted: Mapping[int, HealthCheck] = {}
        self._changed = asyncio.Event()
        self._said: set[int] = set()

    def want(self, checks: Mapping[int, HealthCheck]) -> None:
        """Serve these, by port, from now on."""
        self._wanted = checks
        if checks.keys() != self._open.keys():
            self._changed.set()

    async def run(self) -> None:
        """Open and close servers until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for port in [port for port in self._open if port not in self._wanted]:
                    await self._open.pop(port).aclose()
                for port in [port for port in self._wanted if port not in self._open]:
                    await self._serve(port)
        finally:
            for server in self._open.values():
                await server.aclose()

    async def _serve(self, port: int) -> None:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(
                    serve_http([("0.0.0.0", port)], {"/{any:.*}": lambda: self._page(port)})
                )
            except KernelError as error:
                if port not in self._said:
                    log.warning("health check of %s: %s", self._wanted[port].name, error)
                    self._said.add(port)
                return
            self._said.discard(port)
            self._open[port] = stack.pop_all()

    def _page(self, port: int) -> web.Response:
        check = self._wanted.get(port)
        return web.Response(status=503) if check is None else answer(check, healthy=self._healthy())
