"""What every pod's worker shares with the others of its node."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netplane.errors import NetplaneError
from netplane.kube.client import Client
from netplane.kube.objects import Object, name_of, namespace_of, uid_of
from netplane.node.cni_client import CniClient
from netplane.node.cni_config import Network
from netplane.node.configs import Configs
from netplane.node.events import Events
from netplane.node.metrics import NodeMetrics
from netplane.node.names import Dns
from netplane.node.runtimes import Runtime
from netplane.node.volumes import Places


class NetworkNotReady(NetplaneError):
    """No pod can be attached yet; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """How pods are treated on this node; times in seconds."""

    restart_base: float = 10.0
    restart_limit: float = 300.0
    retry: float = 2.0  # between attempts at something that failed, such as a sandbox
    pids: int | None = 4096  # processes in one container


@dataclass(frozen=True, slots=True)
class PodContext:
    """The node as a pod's worker sees it. ``network`` raises NetworkNotReady."""

    node: str
    addresses: Callable[[], Sequence[str]]
    client: Client
    runtime: Runtime
    cni: CniClient
    network: Callable[[], Network]
    events: Events
    metrics: NodeMetrics
    dns: Dns
    logs: Path
    configs: Configs
    volumes: Places
    node_resolv_conf: Path = Path("/etc/resolv.conf")
    settings: PodSettings = field(default_factory=PodSettings)
    missing_controllers: Sequence[str] = ()
    clock: Callable[[], float] = time.monotonic

    def log_directory(self, pod: Object) -> Path:
        """Where the pod's containers' logs are, as kubelet lays them out."""
        return self.logs / f"{namespace_of(pod)}_{name_of(pod)}_{uid_of(pod)}"

    def log_file(self, pod: Object, container: str, attempt: int) -> Path:
        """One attempt's log."""
        return self.log_directory(pod) / container / f"{attempt}.log"
