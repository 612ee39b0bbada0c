"""The daemon: sockets on the node's DNS address, an index kept true by the API, answers in between.

What was known is answered for as long as the process lives, also while the API server is away; before the first
list is complete a question about the cluster is SERVFAIL, so that a resolver asks again instead of believing
that a name does not exist.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from netplane import metrics
from netplane.config import (
    CLUSTER_CIDRS,
    CLUSTER_DOMAIN,
    DNS_ADDRESSES,
    SERVICE_CIDRS,
    IPAddress,
    IPNetwork,
    Paths,
)
from netplane.dns import sockets
from netplane.dns.answerer import Answerer, Pending
from netplane.dns.forward import Forwarder, Resolver
from netplane.dns.index import Index
from netplane.dns.records import Zone
from netplane.kube.cache import Cache
from netplane.kube.client import Client
from netplane.kube.following import follow
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.resources import ENDPOINTSLICES, SERVICES
from netplane.runner import Daemon

TCP_IDLE = 10.0
TCP_CONNECTIONS = 256
PENDING_LIMIT = 1024
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """``etc/netplane/dns.yaml``. ``metrics_port`` 0 serves none."""

    root: Path = Path("/")
    kubeconfig: Path | None = None
    addresses: tuple[IPAddress, ...] = DNS_ADDRESSES
    port: int = 53
    cluster_domain: str = CLUSTER_DOMAIN
    service_cidrs: tuple[IPNetwork, ...] = SERVICE_CIDRS
    cluster_cidrs: tuple[IPNetwork, ...] = CLUSTER_CIDRS
    forward_to: tuple[str, ...] = ()
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 9153

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError("addresses: at least one is needed")
        for text in self.forward_to:
            if Resolver.parse(text).address in self.addresses:
                raise ValueError(f"forwardTo: {text} is this server itself")
        self.zone()

    def zone(self) -> Zone:
        """What this server answers for."""
        return Zone.of(self.cluster_domain, (*self.service_cidrs, *self.cluster_cidrs), self.addresses)


async def serve(settings: Settings, daemon: Daemon) -> None:
    """Answer until the daemon is to stop.

    Raises ConfigError for an unusable kubeconfig and KernelError where the address cannot be had.
    """
    kubeconfig = Kubeconfig.load(settings.kubeconfig or Paths(settings.root).kubeconfig("dns"))
    await asyncio.to_thread(_own, settings, kubeconfig.server)
    async with Client(kubeconfig, user_agent="netplane-dns") as client, asyncio.TaskGroup() as tasks:
        forwarder = Forwarder([Resolver.parse(text) for text in settings.forward_to])
        answerer = Answerer(settings.zone(), Index(), forwarder)
        followers = [tasks.create_task(keep(client, answerer.index, daemon))]
        async with listening(settings, answerer, tasks), _metrics(settings, answerer):
            daemon.ready("waiting for the API server")
            await daemon.stopping.wait()
        for follower in followers:
            follower.cancel()


def _own(settings: Settings, server: str) -> None:
    sockets.own(settings.addresses, sockets.node_addresses(server))


async def keep(client: Client, index: Index, daemon: Daemon) -> None:
    """Keep the index true; it counts as synced once both kinds have been listed."""
    services, slices = Cache(SERVICES), Cache(ENDPOINTSLICES)

    def listed() -> None:
        if services.synced and slices.synced and not index.synced:
            index.synced = True
            daemon.status(f"{len(services)} Services")
            log.info("answering for %d Services, %d EndpointSlices", len(services), len(slices))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow(client, services, on_change=index.service_changed, on_synced=listed))
        tasks.create_task(follow(client, slices, on_change=index.slice_changed, on_synced=listed))


@asynccontextmanager
async def listening(settings: Settings, answerer: Answerer, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
    """UDP and TCP on each address while the context is open; open connections end with it."""
    loop = asyncio.get_running_loop()
    connections: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve_stream(reader, writer, answerer, connections)

    transports: list[asyncio.DatagramTransport] = []
    servers: list[asyncio.Server] = []
    try:
        for address in settings.addresses:
            datagrams = sockets.bind(address, settings.port, socket.SOCK_DGRAM)
            transport, _ = await loop.create_datagram_endpoint(
                lambda: Datagrams(answerer, tasks), sock=datagrams
            )
            transports.append(transport)
            stream = sockets.bind(address, settings.port, socket.SOCK_STREAM)
            servers.append(await asyncio.start_server(connected, sock=stream))
        yield
    finally:
        for transport in transports:
            transport.close()
        for server in servers:
            server.close()
        for writer in tuple(connections):
            writer.close()


class Datagrams(asyncio.DatagramProtocol):
    """Answers from the index at once; only a forwarded question takes a task."""

    def __init__(self, answerer: Answerer, tasks: asyncio.TaskGroup) -> None:
        self._answerer = answerer
        self._tasks = tasks
        self._pending = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport to answer on."""
        self._transport = transport  # type: ignore[assignment]  # the loops' own classes do not say so

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        """One query."""
        prompt = self._answerer.prompt(data)
        if isinstance(prompt, bytes):
            self._send(prompt, addr)
        elif prompt is not None and self._pending < PENDING_LIMIT:  # beyond it: its client asks again
            self._pending += 1
            self._tasks.create_task(self._later(prompt, addr))

    def error_received(self, exc: Exception) -> None:
        """An ICMP error about an earlier answer: its client has gone."""

    async def _later(self, prompt: Pending, addr: tuple[object, ...]) -> None:
        try:
            self._send(await self._answerer.later(prompt, tcp=False), addr)
        finally:
            self._pending -= 1

    def _send(self, wire: bytes, addr: tuple[object, ...]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(wire, addr)


async def _serve_stream(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answerer: Answerer,
    connections: set[asyncio.StreamWriter],
) -> None:
    """Queries with a length in front (RFC 7766), one after the other, until the client is done or silent."""
    if len(connections) >= TCP_CONNECTIONS:
        writer.close()
        return
    connections.add(writer)
    try:
        while True:
            async with asyncio.timeout(TCP_IDLE):
                length = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(length)
            wire = await answerer.whole(data)
            if wire is None:
                return
            writer.write(len(wire).to_bytes(2, "big") + wire)
            async with asyncio.timeout(TCP_IDLE):
                await writer.drain()
    except (asyncio.IncompleteReadError, TimeoutError, OSError):
        return  # the client is done, silent or gone
    finally:
        connections.discard(writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def _metrics(settings: Settings, answerer: Answerer) -> AsyncIterator[None]:
    if not settings.metrics_port:
        yield
        return

    def health() -> web.Response:
        synced = answerer.index.synced
        return web.Response(text="ok\n" if synced else "not synced\n", status=200 if synced else 503)

    pages: dict[str, metrics.Page] = {
        "/metrics": lambda: metrics.render(answerer.counters.registry),
        "/healthz": health,
    }
    async with metrics.serve_http([(settings.metrics_address, settings.metrics_port)], pages):
        yield
