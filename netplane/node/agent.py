"""`netplane node serve`: makes this machine a Node and tends its pods.

The start order: re-adopt what runs (needs nobody), say who we are (the API), get pod CIDRs (its controllers), write the
network configuration, and be ready once the network says that it is. Until the API has taken us for that node, nothing
is started, freed or routed for it: another machine may be it.
"""

import asyncio
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath

from aiohttp import web

from netplane.config import (
    CLUSTER_CIDRS,
    CLUSTER_DOMAIN,
    DNS_ADDRESSES,
    IPAddress,
    IPNetwork,
    Paths,
)
from netplane.errors import ConfigError, NetplaneError
from netplane.kube.cache import Cache
from netplane.kube.client import Client
from netplane.kube.following import follow
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.objects import name_of
from netplane.kube.resources import NODES
from netplane.linux import cgroups, sysctl
from netplane.metrics import render, serve_http
from netplane.node import address, network, registration, routes
from netplane.node.cni_client import CniClient
from netplane.node.configs import Configs
from netplane.node.events import Events
from netplane.node.metrics import NodeMetrics
from netplane.node.names import Dns
from netplane.node.node_object import NodeObject
from netplane.node.pod_context import PodContext, PodSettings
from netplane.node.pods import Pods
from netplane.node.registration import Machine
from netplane.node.runtimes.process import ProcessRuntime
from netplane.node.server import AgentServer, Certificates, serving
from netplane.node.volumes import Places
from netplane.runner import Daemon

log = logging.getLogger(__name__)

MAX_NAME = 63


@dataclass(frozen=True, slots=True)
class Settings:
    """The node's configuration file. Times are in seconds."""

    root: Path = Path("/")
    kubeconfig: Path | None = None
    node_name: str = field(default_factory=lambda: socket.gethostname().lower())
    node_ip: IPAddress | None = None
    cluster_cidrs: tuple[IPNetwork, ...] = CLUSTER_CIDRS
    dns_addresses: tuple[IPAddress, ...] = DNS_ADDRESSES
    cluster_domain: str = CLUSTER_DOMAIN
    labels: Mapping[str, str] = field(default_factory=dict)
    cgroup_root: str = ""  # below each hierarchy; derived from the root when empty
    listen: str = "0.0.0.0"  # the API server is on another machine
    port: int = 10250
    metrics_port: int = 10255
    lease_renew: float = 10.0
    lease_duration: int = 40
    network_check: float = 10.0
    restart_base: float = 10.0
    max_pods: int = 110
    pod_pids: int | None = 4096

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if not self.node_name or len(self.node_name) > MAX_NAME or self.node_name != self.node_name.lower():
            raise ValueError(f"nodeName {self.node_name!r} must be 1 to {MAX_NAME} lower-case characters")
        if self.lease_renew >= self.lease_duration:
            raise ValueError(
                f"leaseRenew {self.lease_renew} must be less than leaseDuration {self.lease_duration}"
            )
        if self.restart_base <= 0:
            raise ValueError(f"restartBase must be more than 0, not {self.restart_base}")


async def serve(settings: Settings, daemon: Daemon) -> None:
    """Run until told to stop; the pods stay. Raises ConfigError where this machine cannot be that node."""
    paths = Paths(settings.root)
    kubeconfig = Kubeconfig.load(settings.kubeconfig or paths.kubeconfig("node"))
    with only_one(paths.state / "node" / "lock"):
        async with Client(kubeconfig, user_agent="netplane-node") as client:
            agent = Agent(settings, paths, client)
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(agent.run(daemon))
                await daemon.stopping.wait()
                work.cancel()


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold the root's lock, which ends with the process however it ends. Raises ConfigError when another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"cannot start the node agent: another one holds {path}", "Two agents need two roots"
            ) from None
        yield


class Agent:
    """The parts of the agent, and the loops that keep them going."""

    def __init__(self, settings: Settings, paths: Paths, client: Client) -> None:
        self._settings, self._paths, self._client = settings, paths, client
        self._metrics = NodeMetrics()
        self._nodes = Cache(NODES)
        self._events = Events(settings.node_name)
        self._cni = CniClient([paths.cni_bin_dir], paths.state / "node" / "cni", self._metrics.observe_cni)
        self._network = network.NodeNetwork(paths, self._cni)
        self._addresses: tuple[IPAddress, ...] = ()
        self._notice = ""
        self._nodes_changed = asyncio.Event()
        self._node: NodeObject | None = None
        self._registered = asyncio.Event()
        self._pods = Pods(self._pod_context())

    def _pod_context(self) -> PodContext:
        settings, paths = self._settings, self._paths
        layout = cgroups.detect()
        if layout.missing:
            log.warning("this host offers no cgroup controller %s: no such limits", ", ".join(layout.missing))
        group = PurePosixPath(settings.cgroup_root or paths.cgroup_name) / "pods"
        return PodContext(
            node=settings.node_name,
            addresses=lambda: [str(address) for address in self._addresses],
            client=self._client,
            runtime=ProcessRuntime(paths.run / "pods", group, layout),
            cni=self._cni,
            network=self._network.current,
            events=self._events,
            metrics=self._metrics,
            dns=Dns([str(server) for server in settings.dns_addresses], settings.cluster_domain),
            logs=paths.root / "var/log/pods",
            configs=Configs(self._client),
            volumes=Places(paths.state / "node" / "volumes", paths.run / "volumes"),
            settings=PodSettings(restart_base=settings.restart_base, pids=settings.pod_pids),
            missing_controllers=layout.missing,
        )

    async def run(self, daemon: Daemon) -> None:
        """All loops, until cancelled or until one fails for good."""
        settings = self._settings
        pki = self._paths.pki
        tls = Certificates(pki / "ca.crt", pki / "node.crt", pki / "node.key").context()
        await asyncio.to_thread(sysctl.write, "net.ipv4.ip_forward", "1")
        doors = AgentServer(self._pods, self._pods.context.log_file).app()
        async with (
            serving(doors, settings.listen, settings.port, tls),
            serve_http([(settings.listen, settings.metrics_port)], {"/metrics": self._render}),
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._pods.run(self._registered))
            tasks.create_task(self._events.run(self._client))
            tasks.create_task(
                follow(
                    self._client, self._nodes, on_change=lambda _: self._changed(), on_synced=self._changed
                )
            )
            tasks.create_task(self._keep_network())
            daemon.ready("pods adopted, not registered yet")
            node = await self._register()
            tasks.create_task(node.keep_lease(settings.lease_renew, settings.lease_duration))
            tasks.create_task(node.keep_status())
            tasks.create_task(self._keep_routes())
            tasks.create_task(self._hear_of_routes())
            daemon.status(f"node {settings.node_name} at {', '.join(map(str, self._addresses))}")

    async def _register(self) -> NodeObject:
        settings = self._settings
        self._addresses = (await self._find_address(),)
        machine = Machine(
            name=settings.node_name,
            addresses=self._addresses,
            machine_id=await asyncio.to_thread(registration.machine_id, self._paths.state),
            boot_id=registration.boot_id(),
            cpus=os.cpu_count() or 1,
            memory=registration.memory_bytes(),
            max_pods=settings.max_pods,
            port=settings.port,
            runtime=self._pods.context.runtime.name,
            labels=settings.labels,
        )
        node = NodeObject(
            self._client,
            machine,
            self._nodes,
            problem=lambda: self._network.problem,
            closed=lambda: self._network.closed,
            notice=lambda: self._notice,
        )
        await node.register(settings.lease_duration)
        self._node = node
        self._registered.set()
        self._changed()
        return node

    async def _find_address(self) -> IPAddress:
        server, wanted = self._client.kubeconfig.server, self._settings.node_ip
        try:
            return await address.find(server, [], wanted)
        except ConfigError:
            # The route to the API server did not decide it; the routes to the other nodes may.
            listed = await self._client.list(NODES)
            peers = [
                ip_address(text)
                for node in listed.items
                if name_of(node) != self._settings.node_name
                for text in routes.internal_addresses(node)
            ]
            return await address.find(server, peers, wanted)

    def _changed(self) -> None:
        self._nodes_changed.set()
        if self._node is not None:
            self._node.changed.set()

    async def _keep_routes(self) -> None:
        """Routes to the other nodes, after every change of either; our own pod CIDRs into the configuration."""
        said: list[str] = []
        while True:
            await self._nodes_changed.wait()
            self._nodes_changed.clear()
            if not self._nodes.synced:
                continue
            nodes = list(self._nodes.values())
            count, problems = await asyncio.to_thread(routes.reconcile, self._settings.node_name, nodes)
            self._metrics.routes.set(count)
            if problems != said:
                said = problems
                for problem in problems:
                    log.warning("%s", problem)
            await self._configure_network()
            delay = 5.0 if problems else None  # a route that the kernel refused may be possible later
            if delay is not None:
                asyncio.get_running_loop().call_later(delay, self._nodes_changed.set)

    async def _hear_of_routes(self) -> None:
        async for _ in routes.unrest():
            self._nodes_changed.set()

    async def _configure_network(self) -> None:
        own = self._nodes.get("", self._settings.node_name)
        texts = routes.pod_cidrs(own) if own is not None else []
        if not texts:
            return
        try:
            pod_cidrs = [ip_network(text) for text in texts]
            document = network.conflist(pod_cidrs, self._settings.cluster_cidrs)
            held = bool(await asyncio.to_thread(self._cni.attachments))
            written = await asyncio.to_thread(network.write, self._paths.cni_conf_dir, document, held=held)
        except (NetplaneError, ValueError) as error:
            self._tell(f"cannot configure the network: {error}")
            return
        self._tell(written.notice)

    def _tell(self, notice: str) -> None:
        """Something about the network that a person should see: in the log, an event and the condition."""
        if notice == self._notice:
            return
        self._notice = notice
        if notice:
            log.warning("%s", notice)
        own = self._nodes.get("", self._settings.node_name)
        if notice and own is not None:
            self._events.warn(own, "NetworkConfiguration", notice)
        if self._node is not None:
            self._node.changed.set()

    async def _keep_network(self) -> None:
        """Ask the network whether it can take pods; often until it can."""
        collected = False
        said: tuple[str, str, str] | None = None
        while True:
            await self._network.check()
            problem, closed = self._network.problem, self._network.closed
            if (self._network.name, problem, closed) != said:
                said = (self._network.name, problem, closed)
                log.info("network %s: %s", self._network.name, problem or closed or "ready")
                self._changed()  # also another network's file in our place is to be told
            if not problem and not collected and self._registered.is_set():
                collected = await self._collect_garbage()
            hurry = 0.5 if problem else 2.0 if closed else self._settings.network_check
            await asyncio.sleep(min(hurry, self._settings.network_check))

    async def _collect_garbage(self) -> bool:
        try:
            await self._network.collect_garbage()
        except NetplaneError as error:
            log.warning("cannot have the network's leftovers collected: %s", error)
        return True

    def _render(self) -> web.Response:
        self._pods.count_phases()
        age = time.monotonic() - self._pods.cache.last_contact if self._pods.cache.last_contact else 0.0
        self._metrics.api_contact.set(age)
        return render(self._metrics.registry)
