"""A pod's row in `kubectl get pods`: one word that says how it is, computed as kubectl's users know it.

Source: Kubernetes 1.32 `pkg/printers/internalversion/printers.go`, printPod.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.api.kinds.kind import Column, Since
from controlplane.api.kinds.printing import AGE, NAME, NONE, text
from netplane.kube.objects import Object, is_deleting, is_true

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Summary:
    """What the containers of a pod amount to. `last` is when one of them last ended, if any restarted."""

    reason: str
    ready: int
    total: int
    restarts: int
    last: str


def summary(pod: Object) -> Summary:
    """READY, STATUS and RESTARTS of a pod."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    sidecars = {
        container.get("name")
        for container in spec.get("initContainers") or []
        if container.get("restartPolicy") == "Always"
    }
    total = len(spec.get("containers") or []) + len(sidecars)
    started = _Tally(_first_reason(status))
    waiting = _initialise(started, spec, status, sidecars)
    if not waiting or is_true(pod, "Initialized"):
        started.forget_finished(status.get("initContainerStatuses") or [], sidecars)
        _run(started, pod, status)
    return Summary(_final_reason(pod, started.reason), started.ready, total, started.restarts, started.last)


def _first_reason(status: Fields) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            return "SchedulingGated"
    return str(status.get("reason") or status.get("phase") or "")


def _final_reason(pod: Object, reason: str) -> str:
    status = pod.get("status") or {}
    if not is_deleting(pod):
        return reason
    if status.get("reason") == "NodeLost":
        return "Unknown"
    return reason if status.get("phase") in ("Succeeded", "Failed") else "Terminating"


@dataclass(slots=True)
class _Tally:
    """What has been counted so far; RFC 3339 times compare as strings."""

    reason: str
    ready: int = 0
    restarts: int = 0
    last: str = ""

    def count(self, container: Fields) -> None:
        """Add one container's restarts."""
        self.restarts += container.get("restartCount") or 0
        ended = ((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        self.last = max(self.last, ended)

    def forget_finished(self, init: list[Fields], sidecars: set[str | None]) -> None:
        """Once a pod is initialised, of its init containers only the sidecars' restarts count."""
        self.restarts, self.last = 0, ""
        for container in init:
            if container.get("name") in sidecars:
                self.count(container)


def _initialise(tally: _Tally, spec: Fields, status: Fields, sidecars: set[str | None]) -> bool:
    """Walk the init containers up to the first that is not done; True if there is one."""
    for index, container in enumerate(status.get("initContainerStatuses") or []):
        tally.count(container)
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting") or {}
        if ended is not None and not ended.get("exitCode"):
            continue
        if container.get("name") in sidecars and container.get("started"):
            tally.ready += bool(container.get("ready"))
            continue
        if ended is not None:
            tally.reason = "Init:" + _ended(ended)
        elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
            tally.reason = f"Init:{waiting['reason']}"
        else:
            tally.reason = f"Init:{index}/{len(spec.get('initContainers') or [])}"
        return True
    return False


def _run(tally: _Tally, pod: Object, status: Fields) -> None:
    running = False
    for container in reversed(status.get("containerStatuses") or []):
        tally.count(container)
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting") or {}
        if waiting.get("reason"):
            tally.reason = waiting["reason"]
        elif ended is not None:
            tally.reason = _ended(ended)
        elif container.get("ready") and state.get("running") is not None:
            running = True
            tally.ready += 1
    if tally.reason == "Completed" and running:
        tally.reason = "Running" if is_true(pod, "Ready") else "NotReady"


def _ended(terminated: Fields) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode') or 0}"


def _ready(pod: Object) -> str:
    found = summary(pod)
    return f"{found.ready}/{found.total}"


def _restarts(pod: Object) -> object:
    found = summary(pod)
    if found.restarts and found.last:
        return Since(found.last, f"{found.restarts} ({{}} ago)")
    return str(found.restarts)


def _address(pod: Object) -> str:
    status = pod.get("status") or {}
    addresses = status.get("podIPs") or []
    return text(addresses[0].get("ip") if addresses else status.get("podIP"))


def _gates(pod: Object) -> str:
    gates = (pod.get("spec") or {}).get("readinessGates") or []
    if not gates:
        return NONE
    return f"{sum(is_true(pod, gate.get('conditionType')) for gate in gates)}/{len(gates)}"


COLUMNS = (
    NAME,
    Column(
        "Ready",
        "string",
        _ready,
        description="The aggregate readiness state of this pod for accepting traffic.",
    ),
    Column(
        "Status",
        "string",
        lambda pod: summary(pod).reason,
        description="The aggregate status of the containers in this pod.",
    ),
    Column(
        "Restarts",
        "string",
        _restarts,
        description="The number of times the containers in this pod have been restarted and when the last "
        "container in this pod has restarted.",
    ),
    AGE,
    Column("IP", "string", _address, 1, description="IP address allocated to the pod."),
    Column(
        "Node",
        "string",
        lambda pod: text((pod.get("spec") or {}).get("nodeName")),
        1,
        description="The node this pod is scheduled to.",
    ),
    Column(
        "Nominated Node",
        "string",
        lambda pod: text((pod.get("status") or {}).get("nominatedNodeName")),
        1,
        description="The node that resources are being made free on for this pod.",
    ),
    Column(
        "Readiness Gates",
        "string",
        _gates,
        1,
        description="How many of the conditions that further gate the pod's readiness are true.",
    ),
)
