"""healthCheckNodePort: a load balancer outside asks each node whether it has endpoints of a Service.

Why word for word as kube-proxy: cloud controllers were written against its answers (``pkg/proxy/healthcheck``).
200 with at least one local endpoint, while the proxy itself is healthy; else 503.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import orjson
from aiohttp import web

from netplane.errors import KernelError
from netplane.metrics import serve_http
from proxy.model import HealthCheck, IPAddress, NodeFacts, Snapshot

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


def hosts(node: NodeFacts, here: Sequence[IPAddress]) -> tuple[str, ...]:
    """Where checks are answered: on every address that NodePorts are served on, of those the node has ``here``."""
    found: list[str] = []
    for version in sorted({4, *(address.version for address in node.addresses)}):
        chosen = [network for network in node.node_port_networks if network.version == version]
        if not chosen or any(network.prefixlen == 0 for network in chosen):
            found.append("0.0.0.0" if version == 4 else "::")
        else:
            mine = (address for address in here if address.version == version and not address.is_link_local)
            found += [str(address) for address in mine if any(address in network for network in chosen)]
    return tuple(found)


class HealthChecks:
    """One HTTP server for each port that a Service asks for. ``healthy``: whether the proxy is.

    ``here``: asks the kernel for this machine's addresses; blocking.
    """

    def __init__(self, healthy: Callable[[], bool], here: Callable[[], Sequence[IPAddress]]) -> None:
        self._healthy = healthy
        self._here = here
        self._open: dict[int, tuple[tuple[str, ...], AsyncExitStack]] = {}
        self._wanted: Mapping[int, HealthCheck] = {}
        self._node = NodeFacts("")
        self._changed = asyncio.Event()
        self._said: set[int] = set()

    def want(self, snapshot: Snapshot) -> None:
        """Serve the checks of this one, at its node's addresses, from now on."""
        moved = snapshot.node != self._node
        self._wanted, self._node = snapshot.checks, snapshot.node
        if moved or self._wanted.keys() != self._open.keys():
            self._changed.set()

    async def run(self) -> None:
        """Open and close servers until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._follow(self._wanted, self._node)
        finally:
            for _, server in self._open.values():
                await server.aclose()

    async def _follow(self, wanted: Mapping[int, HealthCheck], node: NodeFacts) -> None:
        where = await self._hosts(node) if wanted else ()
        for port in [port for port, (at, _) in self._open.items() if port not in wanted or at != where]:
            await self._open.pop(port)[1].aclose()
        for port in [port for port in wanted if port not in self._open]:
            await self._serve(port, wanted[port].name, where)

    async def _hosts(self, node: NodeFacts) -> tuple[str, ...]:
        if not node.node_port_networks:
            return hosts(node, ())
        try:
            return hosts(node, await asyncio.to_thread(self._here))
        except KernelError as error:
            log.warning("health checks are answered on all addresses: %s", error)
            return hosts(replace(node, node_port_networks=()), ())

    async def _serve(self, port: int, name: str, where: tuple[str, ...]) -> None:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(
                    serve_http([(host, port) for host in where], {"/{any:.*}": lambda: self._page(port)})
                )
            except KernelError as error:
                if port not in self._said:
                    log.warning("health check of %s: %s", name, error)
                    self._said.add(port)
                return
            self._said.discard(port)
            self._open[port] = (where, stack.pop_all())

    def _page(self, port: int) -> web.Response:
        check = self._wanted.get(port)
        return web.Response(status=503) if check is None else answer(check, healthy=self._healthy())
