"""This machine as a Node object: what it says of itself, and whether it may say so. Pure."""

import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from netplane import __version__
from netplane.config import IPAddress
from netplane.errors import ConfigError, KernelError
from netplane.kube.objects import Object, meta, parse_time, set_condition

ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}
LEASE_NAMESPACE = "kube-node-lease"
NETWORK_UNAVAILABLE, CLOSED = "NetworkUnavailable", "NoPodCanBeAttached"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a Node says of its machine. ``machine_id`` is this root's own: two nodes never share one."""

    name: str
    addresses: Sequence[IPAddress]
    machine_id: str
    boot_id: str
    cpus: int
    memory: int  # bytes
    max_pods: int
    port: int
    runtime: str
    labels: Mapping[str, str]


def node_object(machine: Machine) -> Object:
    """The Node to create: not ready, and without what the controllers decide."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": machine.name, "labels": labels(machine)},
        "spec": {},
    }


def labels(machine: Machine) -> dict[str, str]:
    """The well-known ones, and the configured."""
    arch = ARCHITECTURES.get(platform.machine(), platform.machine())
    return {
        **machine.labels,
        "kubernetes.io/hostname": machine.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
    }


def node_status(machine: Machine, conditions: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole of `status` that a node agent owns."""
    uname = platform.uname()
    amounts = {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory // 1024}Ki",
        "pods": str(machine.max_pods),
    }
    return {
        "addresses": [
            *({"type": "InternalIP", "address": str(address)} for address in machine.addresses),
            {"type": "Hostname", "address": machine.name},
        ],
        "capacity": amounts,
        "allocatable": amounts,
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": machine.port}},
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.machine_id,
            "bootID": machine.boot_id,
            "kernelVersion": uname.release,
            "osImage": _os_image(),
            "containerRuntimeVersion": f"{machine.runtime}://{__version__}",
            "kubeletVersion": f"netplane-{__version__}",
            "kubeProxyVersion": f"netplane-{__version__}",
            "operatingSystem": "linux",
            "architecture": ARCHITECTURES.get(uname.machine, uname.machine),
        },
    }


def ready_condition(old: list[dict[str, Any]], problem: str, notice: str, now: str) -> list[dict[str, Any]]:
    """`Ready` by what is in the way ("" for nothing), all other conditions as they were."""
    if problem:
        found = set_condition(
            old, "Ready", "False", "KubeletNotReady", f"NetworkPluginNotReady: {problem}", now
        )
    else:
        message = "the node agent is posting ready status" + (f"; {notice}" if notice else "")
        found = set_condition(old, "Ready", "True", "KubeletReady", message, now)
    return [{**c, "lastHeartbeatTime": now} if c.get("type") == "Ready" else c for c in found]


def closed_condition(old: list[dict[str, Any]], closed: str, now: str) -> list[dict[str, Any]]:
    """`NetworkUnavailable` while the node takes no further pod ("" for it does); the scheduler goes elsewhere then.

    What another component says by that condition is left alone.
    """
    if closed:
        return set_condition(old, NETWORK_UNAVAILABLE, "True", CLOSED, closed, now)
    said = next((c for c in old if c.get("type") == NETWORK_UNAVAILABLE), {})
    if (said.get("status"), said.get("reason")) != ("True", CLOSED):
        return old
    return set_condition(
        old, NETWORK_UNAVAILABLE, "False", "PodsCanBeAttached", "the network takes pods", now
    )


def is_alive(node: Object, lease: Object | None, now: datetime) -> bool:
    """Whether somebody still speaks for a Node: its Lease is fresh, or it is too new to have one."""
    spec = (lease or {}).get("spec") or {}
    said = spec.get("renewTime") or meta(node).get("creationTimestamp")
    try:
        return (now - parse_time(str(said))).total_seconds() < float(spec.get("leaseDurationSeconds") or 40)
    except ValueError:
        return False


def refuse_namesake(machine: Machine, node: Object, lease: Object | None, now: datetime) -> None:
    """Raise ConfigError when a Node of our name is another machine's, and that one is alive."""
    status = node.get("status") or {}
    other = str((status.get("nodeInfo") or {}).get("machineID") or "")
    if other in ("", machine.machine_id) or not is_alive(node, lease, now):
        return
    where = ", ".join(
        str(a.get("address")) for a in status.get("addresses") or [] if a.get("type") == "InternalIP"
    )
    raise ConfigError(
        f"cannot register node {machine.name}: another machine of that name is alive"
        f" (address {where or 'unknown'}, machine id {other})",
        "Give this one another nodeName, or stop the other one for as long as its Lease lasts",
    )


def lease_object(name: str, duration: int, now: str) -> Object:
    """The heartbeat as the API has it. Source: kubelet's node lease."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": duration, "renewTime": now},
    }


def machine_id(state: Path) -> str:
    """This root's own id, made at its first start. Not /etc/machine-id: cloned machines and the nodes of a lab share
    that one. Raises KernelError.
    """
    path = state / "node" / "machine-id"
    try:
        if path.exists() and (text := path.read_text().strip()):
            return text
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(uuid.uuid4().hex + "\n")
        fresh.rename(path)
        return path.read_text().strip()
    except OSError as error:
        raise KernelError(f"cannot keep this machine's id in {path}: {error.strerror}") from None


def boot_id() -> str:
    """Another one after each boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def memory_bytes() -> int:
    """Of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
