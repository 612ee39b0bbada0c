"""What pods ask for and what each node has promised: the books that keep nodes from being over-committed.

Law: after any sequence of ``hold`` and ``release`` a node's sums are exactly those of the pods it holds. A pod is
held from the moment the scheduler decides, not from when the cache shows it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.controllers.facts.pods import spec_of, status_of
from netplane.kube.objects import Object, ObjectKey
from netplane.kube.quantity import milli, whole

Resources = Mapping[str, int]  # "cpu" in thousandths, all others in whole units (bytes, pieces)
ANY_ADDRESSES = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node itself that a container asks for."""

    address: str
    protocol: str
    port: int

    def collides(self, other: "HostPort") -> bool:
        """Whether both cannot be on one node: the same port on addresses that overlap."""
        if (self.protocol, self.port) != (other.protocol, other.port):
            return False
        return (
            self.address == other.address or self.address in ANY_ADDRESSES or other.address in ANY_ADDRESSES
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What one pod takes of a node."""

    requests: Resources
    ports: tuple[HostPort, ...] = ()


def demand_of(pod: Object) -> Demand:
    """Containers run together, init containers one after another beside the sidecars started before them.

    Source: Kubernetes ``component-helpers/resource/helpers.go``, PodRequests.
    """
    spec = spec_of(pod)
    together: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in spec.get("initContainers") or []:
        asked = requests_of(container)
        if container.get("restartPolicy") == "Always":
            together.update(asked)
            asked = {}
        for name, amount in asked.items():
            peak[name] = max(peak[name], together[name] + amount)
        for name, amount in together.items():
            peak[name] = max(peak[name], amount)
    for container in spec.get("containers") or []:
        together.update(requests_of(container))
    total = {name: max(together[name], peak[name]) for name in together.keys() | peak.keys()}
    for name, amount in quantities(spec.get("overhead") or {}).items():
        total[name] = total.get(name, 0) + amount
    return Demand({name: amount for name, amount in total.items() if amount}, tuple(_host_ports(spec)))


def requests_of(container: Mapping[str, Any]) -> dict[str, int]:
    """``resources.requests``; where only a limit is given, the limit is the request."""
    resources = container.get("resources") or {}
    return quantities({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def quantities(texts: Mapping[str, Any]) -> dict[str, int]:
    """Amounts as whole numbers; what cannot be read counts as nothing (the API refuses it on write)."""
    found = {}
    for name, text in texts.items():
        try:
            found[name] = milli(text) if name == "cpu" else whole(text)
        except ValueError:
            continue
    return found


def allocatable_of(node: Object) -> dict[str, int]:
    """``status.allocatable``, or ``status.capacity`` where that is all a node says."""
    status = status_of(node)
    return quantities(status.get("allocatable") or status.get("capacity") or {})


def _host_ports(spec: Mapping[str, Any]) -> Iterable[HostPort]:
    for container in spec.get("containers") or []:
        for port in container.get("ports") or []:
            number = port.get("hostPort") or (port.get("containerPort") if spec.get("hostNetwork") else None)
            if number:
                yield HostPort(port.get("hostIP") or "", port.get("protocol") or "TCP", int(number))


@dataclass(slots=True)
class NodeUsage:
    """The sums of one node."""

    requests: Counter[str] = field(default_factory=Counter)
    pods: int = 0
    ports: Counter[HostPort] = field(default_factory=Counter)


@dataclass(slots=True)
class Usage:
    """The books of all nodes."""

    _held: dict[ObjectKey, tuple[str, Demand]] = field(default_factory=dict)
    _nodes: dict[str, NodeUsage] = field(default_factory=dict)

    def on(self, node: str) -> NodeUsage:
        """What a node has promised; do not change it."""
        return self._nodes.get(node) or NodeUsage()

    def node_of(self, pod: ObjectKey) -> str:
        """Where a pod is held, "" when it is not."""
        held = self._held.get(pod)
        return held[0] if held is not None else ""

    def hold(self, pod: ObjectKey, node: str, demand: Demand) -> None:
        """Count a pod on a node; one that is held already moves."""
        self.release(pod)
        self._held[pod] = (node, demand)
        usage = self._nodes.setdefault(node, NodeUsage())
        usage.requests.update(demand.requests)
        usage.ports.update(demand.ports)
        usage.pods += 1

    def release(self, pod: ObjectKey) -> bool:
        """Count a pod no longer; tells whether it was held."""
        held = self._held.pop(pod, None)
        if held is None:
            return False
        node, demand = held
        usage = self._nodes[node]
        usage.requests.subtract(demand.requests)
        usage.ports.subtract(demand.ports)
        usage.ports += Counter()  # drops the zeros
        usage.pods -= 1
        if not usage.pods:
            del self._nodes[node]
        return True
