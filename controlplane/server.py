"""`netplane controlplane serve`: the API server, the controllers and the scheduler in one process.

The API comes first and stays: a controller that fails is started again with a growing pause, and neither it nor
the scheduler can take the API down with it. They are ordinary clients, with a certificate of their own.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NoReturn

from controlplane import controllers
from controlplane.api.app import build
from controlplane.api.http import Doors
from controlplane.api.kinds.allocation import ServiceAllocator
from controlplane.api.kinds.registry import KINDS
from controlplane.api.listening import listen, load_pair, serving, tls_context
from controlplane.api.publish import Published, keep_published, publish
from controlplane.api.requests.route import catalog
from controlplane.api.streams.agents import Agents
from controlplane.api.streams.proxy import AgentProxy
from controlplane.api.writing.pod_admission import Patience
from controlplane.api.writing.writes import Machinery
from controlplane.auth import join
from controlplane.auth.pki import Authority
from controlplane.auth.tokens import load_issuer
from controlplane.backups import Schedule, keep_backed_up
from controlplane.collector import keep_young
from controlplane.controllers.options import Options
from controlplane.scheduler import Scheduler
from controlplane.store.sqlite import SQLiteStore, directory_of, path_of
from netplane.config import (
    CLUSTER_CIDRS,
    CLUSTER_DOMAIN,
    DNS_ADDRESSES,
    SERVICE_CIDRS,
    IPAddress,
    IPNetwork,
    Paths,
)
from netplane.errors import ConfigError, KernelError
from netplane.kube.client import Backoff, Client
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.objects import Object
from netplane.kube.resources import NODES
from netplane.runner import Daemon

log = logging.getLogger(__name__)

LOOPBACK_LISTENER = "api-loopback"
STEADY_SECONDS = 60.0  # a controller that ran this long failed for a new reason


@dataclass(frozen=True, slots=True)
class Settings:
    """``addresses`` are the machine's own, by which nodes reach it; the first is the one that is named.

    ``listen`` are those to listen on: where not given, the addresses and 127.0.0.1.
    """

    root: Path = Path("/")
    kubeconfig: Path | None = None
    addresses: tuple[IPAddress, ...] = ()
    listen: tuple[IPAddress, ...] = ()
    port: int = 6443
    cluster_cidrs: tuple[IPNetwork, ...] = CLUSTER_CIDRS
    service_cidrs: tuple[IPNetwork, ...] = SERVICE_CIDRS
    dns_addresses: tuple[IPAddress, ...] = DNS_ADDRESSES
    cluster_domain: str = CLUSTER_DOMAIN
    node_port_first: int = 30000
    node_port_last: int = 32767
    node_monitor_grace_period_seconds: float = 40.0
    pod_eviction_timeout_seconds: float = 300.0
    backup_seconds: float = 3600.0
    backups_kept: int = 8

    @property
    def paths(self) -> Paths:
        """Where everything is."""
        return Paths(self.root)

    @property
    def listened(self) -> tuple[IPAddress, ...]:
        """Every address to listen on."""
        return self.listen or tuple(dict.fromkeys((*self.addresses, IPv4Address("127.0.0.1"))))


async def serve(settings: Settings, daemon: Daemon) -> None:
    """Run until the daemon is told to stop. Raises ConfigError, StoreError or KernelError in one line."""
    if not settings.addresses:
        hint = "Give the machine's own addresses, the one that nodes reach first."
        raise ConfigError("cannot serve the API: addresses is empty", hint)
    tls = tls_context(*_serving_pair(settings), str(settings.paths.pki / "ca.crt"))
    kubeconfig = Kubeconfig.load(settings.kubeconfig or settings.paths.kubeconfig("controlplane"))
    issuer = load_issuer(settings.paths.pki, settings.cluster_domain)
    async with AsyncExitStack() as stack:
        sockets = [stack.enter_context(listen(address, settings.port)) for address in settings.listened]
        sockets += daemon.listeners.get(LOOPBACK_LISTENER, [])
        store = await _open_store(path_of(settings.paths.state))
        stack.push_async_callback(store.close)
        address = f"{_url_host(settings.addresses[0])}:{settings.port}"
        api = await build(
            store,
            KINDS.values(),
            allocate_service=allocator(settings),
            issuer=issuer,
            address=address,
            patience=Patience(unreachable=round(settings.pod_eviction_timeout_seconds)),
        )
        published = _published(settings)
        await publish(api.machinery, catalog(api.kinds), published)
        agents = await stack.enter_async_context(Agents(settings.paths.pki, api.hub))
        streams = AgentProxy(agents)
        application = api.application(Doors(_joining(settings, api.machinery), streams.answer))
        await stack.enter_async_context(serving(application, sockets, tls))
        daemon.ready(f"serving on {address}")
        await _until_stopped(
            daemon,
            api.keep(),
            keep_published(api.machinery, catalog(api.kinds), published),
            _back_up(settings, store),
            keep_young(),
            _reload(settings, daemon, tls),
            _control(settings, kubeconfig),
        )
        api.fanout.end()


async def _until_stopped(daemon: Daemon, *loops: Coroutine[Any, Any, None]) -> None:
    """Run what runs for ever, until the daemon is told to stop."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        await daemon.stopping.wait()
        for task in tasks:
            task.cancel()


def _published(settings: Settings) -> Published:
    kubernetes = tuple(network[1] for network in settings.service_cidrs)
    return Published(settings.addresses, settings.port, kubernetes, settings.dns_addresses)


async def _back_up(settings: Settings, store: SQLiteStore) -> NoReturn:
    state = settings.paths.state
    schedule = Schedule(settings.backup_seconds, settings.backups_kept)
    await keep_backed_up(path_of(state), lambda: store.revision, directory_of(state), schedule)


async def _reload(settings: Settings, daemon: Daemon, tls: ssl.SSLContext) -> NoReturn:
    """SIGHUP: new connections get the certificate that is in the file now."""
    while True:
        await daemon.reload.wait()
        daemon.reload.clear()
        try:
            load_pair(tls, *_serving_pair(settings))
            log.info("serving certificate read again")
        except ConfigError as error:
            log.error("%s", error)


async def _control(settings: Settings, kubeconfig: Kubeconfig) -> None:
    """The controllers and the scheduler, as clients of the API beside them."""
    options = Options(
        cluster_cidrs=settings.cluster_cidrs,
        node_monitor_grace_period=settings.node_monitor_grace_period_seconds,
        pod_eviction_timeout=settings.pod_eviction_timeout_seconds,
    )
    async with Client(kubeconfig, user_agent="netplane-controlplane") as client:
        # One set of caches serves the scheduler, too.
        await _again("controllers", lambda: controllers.run(client, options, Scheduler))


async def _again(name: str, start: Callable[[], Awaitable[Any]]) -> NoReturn:
    """Run something for ever; when it fails, say so and start it again, each time a little later."""
    backoff = Backoff(first=0.5, limit=30.0)
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            await start()
            log.error("the %s ended", name)
        except Exception:
            log.exception("the %s failed", name)
        if loop.time() - began > STEADY_SECONDS:
            backoff.reset()
        await asyncio.sleep(backoff.delay())


def _serving_pair(settings: Settings) -> tuple[str, str]:
    pki = settings.paths.pki
    return str(pki / "apiserver.crt"), str(pki / "apiserver.key")


def allocator(settings: Settings) -> ServiceAllocator:
    """Service addresses and node ports of this cluster; those of the two known Services are kept for them."""
    kubernetes = (network[1] for network in settings.service_cidrs)
    return ServiceAllocator(
        settings.service_cidrs,
        range(settings.node_port_first, settings.node_port_last + 1),
        frozenset((*kubernetes, *settings.dns_addresses)),
    )


async def _open_store(path: Path) -> SQLiteStore:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"cannot make {path.parent}: {error.strerror}") from None
    return await SQLiteStore.open(path)


def _joining(settings: Settings, machinery: Machinery) -> Callable[[Object], Awaitable[Object]]:
    """The door for further machines: a token buys the certificates of one node."""
    tokens = join.Tokens(settings.paths.etc / "join-tokens.json")
    cluster = {
        "clusterCIDRs": [str(network) for network in settings.cluster_cidrs],
        "serviceCIDRs": [str(network) for network in settings.service_cidrs],
        "dnsAddresses": [str(address) for address in settings.dns_addresses],
        "clusterDomain": settings.cluster_domain,
        "servers": [f"https://{_url_host(address)}:{settings.port}" for address in settings.addresses],
    }

    async def answer(body: Object) -> Object:
        nodes = [record.obj for record in machinery.hub.all(NODES).values()]
        authority = Authority.load(settings.paths.pki)
        return join.answer(
            body,
            authority=authority,
            tokens=tokens,
            nodes=nodes,
            cluster=cluster,
            now=datetime.now(UTC),
        )

    return answer


def _url_host(address: IPAddress) -> str:
    return f"[{address}]" if address.version == 6 else str(address)
