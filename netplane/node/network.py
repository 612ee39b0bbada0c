"""The node's network: our configuration list in the shared directory, and whether pods can be attached.

The directory is not ours alone: a file of another network is never overwritten, and a file that comes before
ours in the runtimes' order is used as it is, and said so.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from netplane.config import IPNetwork, Paths
from netplane.errors import ConfigError, KernelError, NetplaneError
from netplane.node import cni_config
from netplane.node.cni_client import NOT_AVAILABLE, CniClient, CniError
from netplane.node.cni_config import Network
from netplane.node.pod_context import NetworkNotReady

FILE_NAME = "10-netplane.conflist"
NETWORK_NAME = "netplane"
PLUGIN = "netplane"
CAPABILITIES = ("portMappings", "bandwidth", "ips", "mac", "ipRanges", "dns")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of our file; ``notice`` is "" unless another network has its place."""

    path: Path
    notice: str


def conflist(pod_cidrs: Sequence[IPNetwork], cluster_cidrs: Sequence[IPNetwork]) -> dict[str, Any]:
    """Our network as a configuration list: one address of each pod CIDR, masqueraded on its way out.

    Runtimes that know ``cniVersions`` (since CNI 1.1.0) take the newest they speak; those of Debian 12 do not, and can
    read no result newer than ``cniVersion``.
    """
    return {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": NETWORK_NAME,
        "plugins": [
            {
                "type": PLUGIN,
                "ipam": {"ranges": [[str(network)] for network in pod_cidrs]},
                "masquerade": {"exclude": [str(network) for network in cluster_cidrs]},
                "capabilities": dict.fromkeys(CAPABILITIES, True),
            }
        ],
    }


def write(directory: Path, document: dict[str, Any], *, held: bool) -> Written:
    """Put our list in place by rename; never over another network's, and not with other pod CIDRs while addresses of
    the old ones are ``held``. Raises KernelError.
    """
    path = directory / FILE_NAME
    old = _read(path)
    if old is not None and old.get("name") != NETWORK_NAME:
        name = old.get("name")
        return Written(path, f"{path} is of network {name!r}, not ours: it is left alone and used as it is")
    if held and old is not None and _ranges(old) != _ranges(document):
        notice = f"pod CIDRs stay {_ranges(old)} while pods have addresses of them, not {_ranges(document)}"
        return Written(path, notice)
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            fresh = path.with_suffix(".new")  # no suffix that a runtime reads
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
    except OSError as error:
        raise KernelError(f"cannot write {path}: {error.strerror}") from None
    first = next(iter(cni_config.candidates(directory)), path)
    if first != path:
        return Written(path, f"{first} comes before {path.name}: pods use that network, not netplane's")
    return Written(path, "")


def _read(path: Path) -> dict[str, Any] | None:
    """A configuration list, or None for what nobody could use."""
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return document if isinstance(document, dict) else None


def _ranges(document: dict[str, Any]) -> list[Any]:
    plugins = document.get("plugins") or [{}]
    return list((plugins[0].get("ipam") or {}).get("ranges") or [])


class NodeNetwork:
    """Which network pods get, and whether it can take them.

    ``problem``: why the node is not ready. ``closed``: why it takes no further pod, while those it has go on. "" for
    neither.
    """

    def __init__(self, paths: Paths, cni: CniClient) -> None:
        self._directory = paths.cni_conf_dir
        self._cni = cni
        self._network: Network | None = None
        self.problem = "no network configuration yet"
        self.closed = ""

    def current(self) -> Network:
        """For a pod's worker. Raises NetworkNotReady saying what is missing."""
        if self._network is None or self.problem:
            raise NetworkNotReady(f"cannot attach pods to the network: {self.problem}")
        return self._network

    async def check(self) -> None:
        """Look again. What is in the way of any pod is kubelet's NetworkPluginNotReady."""
        problem = closed = ""
        try:
            network = cni_config.first_usable(cni_config.candidates(self._directory))
            if network is None:
                raise ConfigError(f"no network configuration in {self._directory}")
            self._network = network
            await self._cni.status(network)
        except CniError as error:
            # Not ready would cost the node the pods that run well: a full pod CIDR is no reason for that.
            if error.code == NOT_AVAILABLE and await asyncio.to_thread(self._has_pods):
                closed = str(error)
            else:
                problem = str(error)
        except NetplaneError as error:
            problem = str(error)
        self.problem, self.closed = problem, closed

    @property
    def name(self) -> str:
        """Of the network in use, "" before there is one."""
        return self._network.name if self._network is not None else ""

    def _has_pods(self) -> bool:
        return any(cached.network.name == self.name for cached in self._cni.attachments())

    async def collect_garbage(self) -> None:
        """Have the plugins free what no sandbox of ours holds. Raises CniError."""
        if self._network is not None and not self.problem:
            await self._cni.collect_garbage(self._network)
