"""``netplane proxy``: follows the API and keeps this node's data path true to it.

Why it may die at any time: the plumbing stays in the kernel, listeners stay with the supervisor, and the last
snapshot is on disk; the next process goes on from there.
"""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from netplane import compiled, config
from netplane.config import IPAddress, IPNetwork, Paths
from netplane.errors import NetplaneError
from netplane.kube.cache import Cache, Change
from netplane.kube.client import Client
from netplane.kube.following import follow
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.older import OLDER_ENDPOINTSLICES
from netplane.metrics import serve_http
from netplane.runner import Daemon
from proxy import choice, kubeproxy, routes
from proxy.codec import encode_targets
from proxy.doors import health_pages, metrics_pages, tool_socket
from proxy.ebpf.hostrouting.deciding import HostRouting
from proxy.health import Health
from proxy.health_checks import HealthChecks
from proxy.metrics import SyncMetrics, TrafficCollector, export_takeovers
from proxy.modes import Forwarding, Mode
from proxy.syncer import GRACE, Syncer
from proxy.userspace.datapath import UserspaceDataPath
from proxy.userspace.handover.takeover import Takeover
from proxy.userspace.streams.admission import RESERVED_DESCRIPTORS
from proxy.userspace.workers.counts import Counts
from proxy.userspace.workers.crew import MOST, Crew, justified
from proxy.wanted import Wanted, node_port_networks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """``proxy.yaml``. ``node_addresses`` overrides what the Node object says; seconds where no unit is named.

    ``drain_seconds``: how long flows go on after a stop while no next proxy has taken them over.
    ``cluster_cidrs``: the pods' networks; none: this node's pods are all that is known. ``service_cidrs``: those of
    ClusterIPs; none: each address is led here by itself.
    ``host_routing``: whether packets between pods of this node go past the host's stack in mode ebpf; ``auto``: where
    only netplane has rules on the way. ``workers``: processes that relay, to begin with (0: as many as the processors
    justify). ``endpoint_metrics``: whether the metrics of traffic tell endpoints apart, in mode userspace.
    """

    root: Path = Path("/")
    node_name: str = ""
    node_addresses: tuple[IPAddress, ...] = ()
    kubeconfig: Path | None = None
    mode: Mode = Mode.USERSPACE
    host_routing: HostRouting = HostRouting.AUTO
    cluster_cidrs: tuple[IPNetwork, ...] = config.CLUSTER_CIDRS
    service_cidrs: tuple[IPNetwork, ...] = config.SERVICE_CIDRS
    node_port_addresses: tuple[str, ...] = ()
    connect_deadline: float = 5.0
    drain_seconds: float = 30.0
    workers: int = 0
    endpoint_metrics: bool = False
    metrics_port: int = 10249
    health_port: int = 10256

    @property
    def node(self) -> str:
        """The name of this node's Node object, which is in lower case whatever the machine is called."""
        return (self.node_name or socket.gethostname()).strip().lower()

    def __post_init__(self) -> None:
        if self.connect_deadline <= 0:
            raise ValueError("connectDeadline must be above 0")
        if self.drain_seconds < 0:
            raise ValueError("drainSeconds must not be below 0")
        if not 0 <= self.workers <= MOST:
            raise ValueError(f"workers must be from 0 (chosen by the number of processors) to {MOST}")
        try:
            node_port_networks(self.node_port_addresses, ())
        except ValueError as error:
            raise ValueError(f"nodePortAddresses must be CIDRs, primary, localhost or all: {error}") from None


def load_settings(path: Path | None, **overrides: Any) -> Settings:
    """Settings from our own file, or from a KubeProxyConfiguration. Raises ConfigError.

    What of the latter has no effect is warned about by name.
    """
    document = kubeproxy.read(path)
    if document is None:
        return config.load(Settings, path, **overrides)
    ours, ignored = kubeproxy.translate(document)
    if overrides.get("service_cidrs") is None:
        networks = ", ".join(map(str, config.SERVICE_CIDRS))
        ignored.append(
            f"says nothing of the Service network: {networks} is taken; --service-cidrs names another"
        )
    for warning in ignored:
        log.warning("%s: %s", path, warning)
    return config.parse(Settings, ours, str(path), **overrides)


async def serve(settings: Settings, daemon: Daemon) -> None:
    """Run until the daemon is told to stop. Raises NetplaneError where it cannot start at all."""
    await _Agent(settings, daemon).run()


class _Agent:
    """The parts of one proxy, wired."""

    def __init__(self, settings: Settings, daemon: Daemon) -> None:
        self._settings = settings
        self._daemon = daemon
        self._paths = Paths(settings.root)
        self._kubeconfig = Kubeconfig.load(settings.kubeconfig or self._paths.kubeconfig("proxy"))
        self._registry = CollectorRegistry()
        self._metrics = SyncMetrics(self._registry)
        self._health = Health()
        self._wanted = Wanted(
            settings.node,
            settings.cluster_cidrs,
            settings.service_cidrs,
            settings.node_addresses,
            started=time(),
            node_port_addresses=settings.node_port_addresses,
        )
        self._crew = Crew(
            self._paths.run,
            workers=settings.workers or justified(len(os.sched_getaffinity(0))),
            deadline=settings.connect_deadline,
            drain=settings.drain_seconds,
            by_endpoint=settings.endpoint_metrics,
        )
        relay = UserspaceDataPath(carrier=self._crew, keeper=daemon, kept=daemon.listeners)
        mode, why = choice.resolve(settings.mode, self._paths)
        if why:
            log.info("%s", why)
        if interpreted := compiled.why_interpreted():
            log.info("the relay runs as plain Python, slower a connection: %s", interpreted)
        self._datapath = Forwarding(
            mode, relay, self._paths, settings.host_routing, endpoint_metrics=settings.endpoint_metrics
        )
        self._syncer = Syncer(
            self._wanted,
            self._datapath,
            self._metrics,
            self._health,
            self._paths.state / "proxy-snapshot.json",
            # Clients wait at listeners that outlived the process before us: what it knew is seconds old.
            grace=0.0 if daemon.listeners else GRACE,
        )
        self._registry.register(
            TrafficCollector(
                self._traffic, lambda: self._datapath.connections, by_endpoint=settings.endpoint_metrics
            )
        )
        self._checks = HealthChecks(lambda: self._health.alive(time()), routes.own_addresses)
        self._syncer.on_synced = self._checks.want
        self._export_staleness()
        self._takeovers: dict[str, Callable[[], Takeover]] = {
            "restart": lambda: self._crew.inherited,
            "kill": lambda: self._crew.recovered,
        }
        export_takeovers(self._registry, self._takeovers)
        ejected = Gauge(
            "netplane_proxy_ejected_endpoints",
            "Endpoints that new connections pass over, because connects to them failed",
            registry=self._registry,
        )
        ejected.set_function(lambda: len(self._crew.ejected))

    async def run(self) -> None:
        """Serve until told to stop, then leave the flows to the next proxy, and the node as it is."""
        await asyncio.to_thread(routes.refuse_overlaps, self._settings.service_cidrs)
        try:
            async with tool_socket(self._paths.proxy_socket, self._answers()), asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in self._work()]
                await self._daemon.stopping.wait()
                log.info("stopping: flows are left to the next proxy")
                for task in tasks:
                    task.cancel()
        finally:
            await self._datapath.close(keep=True)

    def _work(self) -> list[Any]:
        return [
            self._crew.run(),
            self._syncer.run(),
            self._syncer.save_changes(),
            self._follow_all(),
            self._serve_http(),
            self._announce(),
            self._reload(),
            self._go_on(),
            self._checks.run(),
            self._datapath.leave_behind(),
            self._datapath.tend(),
        ]

    async def _follow_all(self) -> None:
        node = f"metadata.name={self._settings.node}"
        async with (
            Client(self._kubeconfig, user_agent="netplane-proxy") as client,
            asyncio.TaskGroup() as group,
        ):
            for cache, selector, older in (
                (self._wanted.services, "", None),
                (self._wanted.slices, "", OLDER_ENDPOINTSLICES),
                (self._wanted.nodes, node, None),
            ):
                group.create_task(
                    follow(
                        client,
                        cache,
                        field_selector=selector,
                        on_change=partial(self._note, cache),
                        on_synced=self._syncer.wake,
                        older=older,
                        streaming=True,
                    )
                )

    def _note(self, cache: Cache, change: Change) -> None:
        self._wanted.note(cache.resource, change, monotonic())
        for kind, counted in (("endpoint", self._wanted.slices), ("service", self._wanted.services)):
            if cache is counted:
                self._metrics.changes[kind].inc()
                self._metrics.pending[kind].inc()
        self._syncer.wake()

    async def _announce(self) -> None:
        """Ready is: serving, or unable to know what to serve; both are better than to be started again."""
        try:
            async with asyncio.timeout(10):
                await self._syncer.synced_once.wait()
            self._daemon.ready("forwarding")
        except TimeoutError:
            self._daemon.ready("waiting for the API server")
            await self._syncer.synced_once.wait()
            self._daemon.status("forwarding")
        await self._crew.refresh()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        log.info(
            "%d frontends of %d that the descriptor limit of %d allows; "
            "room for %d connections in %d workers of at most %d",
            len(self._datapath.targets),
            max(0, descriptors - RESERVED_DESCRIPTORS),
            descriptors,
            self._crew.room,
            self._crew.workers,
            MOST,
        )

    async def _go_on(self) -> None:
        """Take over the flows that a process before us was carrying."""
        await self._syncer.synced_once.wait()
        taken = await self._crew.inherit()
        if taken.flows:
            log.info("took over %s", taken)

    async def _reload(self) -> None:
        """SIGHUP: look at the kernel again now."""
        while True:
            await self._daemon.reload.wait()
            self._daemon.reload.clear()
            with suppress(NetplaneError):  # said in the log
                await self._syncer.sync_now()

    async def _serve_http(self) -> None:
        """On 127.0.0.1 at once, and on the node's own addresses as soon as they are known."""
        async with self._http(["127.0.0.1"]):
            await self._syncer.synced_once.wait()
            snapshot = self._syncer.snapshot
            addresses = [str(address) for address in snapshot.node.addresses] if snapshot else []
            async with self._http(addresses):
                await asyncio.Event().wait()

    @asynccontextmanager
    async def _http(self, hosts: Sequence[str]) -> AsyncIterator[None]:
        settings = self._settings
        metrics = [(host, settings.metrics_port) for host in hosts]
        health = [(host, settings.health_port) for host in hosts]
        async with (
            serve_http(metrics, metrics_pages(self._registry, self._crew.refresh)),
            serve_http(health, health_pages(self._health, self._metrics)),
        ):
            yield

    def _answers(self) -> dict[str, Any]:
        return {
            "targets": self._targets,
            "flows": self._flows,
            "status": self._status,
            "sync": self._sync,
            **{f"mode {mode}": partial(self._switch, mode) for mode in Mode},
        }

    async def _targets(self) -> list[dict[str, Any]]:
        return encode_targets(await self._datapath.told())

    async def _flows(self) -> list[dict[str, Any]]:
        """Those of the relay and those of the kernel: after a switch there may be both."""
        return [*await self._crew.describe(), *await self._datapath.translated()]

    async def _sync(self) -> dict[str, Any]:
        report = await self._syncer.sync_now()
        return {
            **asdict(report),
            "frontends": len(self._datapath.targets),
            "unserved": list(map(str, report.unserved)),
        }

    async def _switch(self, asked: Mode) -> str:
        mode, why = await asyncio.to_thread(choice.resolve, asked, self._paths)
        return "; ".join(filter(None, (why, await self._datapath.switch(mode))))

    def _traffic(self) -> Counts:
        """Only what is relayed is counted, so in the other modes there is nothing to be told."""
        return self._crew.traffic if self._datapath.mode is Mode.USERSPACE else {}

    async def _status(self) -> dict[str, Any]:
        await self._crew.refresh()
        forwarded, wanted = await self._datapath.counted()
        missing = f"the kernel has {forwarded} of {wanted} frontends: `netplane sync` mends that now"
        report = self._syncer.report
        return {
            "mode": self._datapath.name,
            "hostRouting": self._datapath.host_routing,
            "endpointMetrics": self._settings.endpoint_metrics,
            "leaving": self._datapath.leaving,
            "revision": report.revision,
            "frontends": forwarded,
            "workers": self._crew.workers,
            "interpreted": compiled.why_interpreted(),
            "flows": self._crew.active + len(await self._datapath.translated()),
            "room": self._crew.room,
            "ejected": self._crew.ejected,
            "takeovers": {cause: last().encode() for cause, last in self._takeovers.items()},
            "unserved": [str(entry) for entry in report.unserved],
            "problems": [
                *([missing] if forwarded < wanted else ()),
                *(self._syncer.snapshot.problems if self._syncer.snapshot else ()),
                *report.warnings,
            ],
            "apiSilentSeconds": self._silence(),
        }

    def _silence(self) -> float | None:
        """Seconds since the API was last heard; None where it never was."""
        caches = (self._wanted.services, self._wanted.slices)
        if not all(cache.last_contact for cache in caches):
            return None
        return monotonic() - min(cache.last_contact for cache in caches)

    def _export_staleness(self) -> None:
        gauge = Gauge(
            "netplane_proxy_api_silent_seconds",
            "Seconds since the API server was last heard; -1: never",
            registry=self._registry,
        )
        gauge.set_function(lambda: -1.0 if (silence := self._silence()) is None else silence)
