"""PodStatus from what is known of a pod: pure.

Source: Kubernetes documentation, "Pod Lifecycle"; reasons and messages as kubelet's `status_manager` and
`kuberuntime` give them, because kubectl and people read them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from netplane.kube.objects import Object, condition, is_deleting, parse_time, rfc3339, set_condition
from netplane.node.runtimes import ContainerState

OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
"""The conditions that kubelet writes, in its order."""
UNKNOWN_END = "ContainerStatusUnknown"


@dataclass(frozen=True, slots=True)
class ContainerView:
    """All that a container's status is made of."""

    spec: Object
    current: ContainerState | None = None
    last: ContainerState | None = None
    restarts: int = 0
    ready: bool = False
    started: bool = False
    waiting: str = ""  # the reason for not running, "" when it runs or has ended for good
    message: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """All that a pod's status is made of. ``pod`` carries the status that the API has now."""

    pod: Object
    containers: Sequence[ContainerView]
    pod_ips: Sequence[str]
    host_ips: Sequence[str]
    sandbox_id: str
    start_time: str


def phase(policy: str, containers: Sequence[ContainerView]) -> str:
    """The pod's phase, by its restart policy and its containers."""
    if any(view.current is None and view.last is None for view in containers):
        return "Pending"
    ended = [view.current for view in containers if view.current is not None and not view.current.running]
    if policy == "Always" or len(ended) < len(containers) or any(view.waiting for view in containers):
        return "Running"
    if all(state.exit_code == 0 for state in ended):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def build(view: PodView, now: str) -> dict[str, Any]:
    """The fields of `status` that a node agent owns, complete; ``now`` is a `metav1.Time`."""
    spec: Mapping[str, Any] = view.pod.get("spec") or {}
    statuses = [_container_status(container, view.sandbox_id) for container in view.containers]
    found = phase(str(spec.get("restartPolicy") or "Always"), view.containers)
    status: dict[str, Any] = {
        "phase": found,
        "conditions": _conditions(view, found, now),
        "hostIP": view.host_ips[0] if view.host_ips else "",
        "hostIPs": [{"ip": address} for address in view.host_ips],
        "startTime": view.start_time,
        "containerStatuses": statuses,
        "qosClass": qos_class(spec),
    }
    if view.pod_ips:
        status["podIP"] = view.pod_ips[0]
        status["podIPs"] = [{"ip": address} for address in view.pod_ips]
    return status


def _conditions(view: PodView, found: str, now: str) -> list[dict[str, Any]]:
    """Ours computed, all others as they are: a merge patch replaces the whole list."""
    conditions = list((view.pod.get("status") or {}).get("conditions") or [])
    networked = "True" if view.pod_ips and found not in ("Succeeded", "Failed") else "False"
    for kind, truth in (
        ("PodReadyToStartContainers", networked),
        ("Initialized", "True"),
        ("PodScheduled", "True"),
    ):
        conditions = _set(conditions, kind, truth, "", "", now)
    unready = [str(c.spec.get("name")) for c in view.containers if not c.ready]
    if found in ("Succeeded", "Failed"):
        truth, reason, message = "False", "PodCompleted" if found == "Succeeded" else "PodFailed", ""
    elif unready:
        truth, reason = "False", "ContainersNotReady"
        message = f"containers with unready status: [{' '.join(unready)}]"
    else:
        truth, reason, message = "True", "", ""
    conditions = _set(conditions, "ContainersReady", truth, reason, message, now)
    if truth == "True" and (gate := _closed_gate(view.pod)):
        truth, reason, message = (
            "False",
            "ReadinessGatesNotReady",
            f'the status of pod readiness gate "{gate}" is not "True"',
        )
    if is_deleting(view.pod):
        truth, reason = "False", reason or "PodTerminating"
    conditions = _set(conditions, "Ready", truth, reason, message, now)
    return sorted(conditions, key=lambda c: OURS.index(c["type"]) if c["type"] in OURS else -1)


def _set(
    conditions: list[dict[str, Any]], kind: str, truth: str, reason: str, message: str, now: str
) -> list[dict[str, Any]]:
    """As ``set_condition``, but an old reason or message does not outlive what it explained."""
    cleaned = [
        {key: value for key, value in c.items() if key not in ("reason", "message")}
        if c.get("type") == kind
        else c
        for c in conditions
    ]
    return set_condition(cleaned, kind, truth, reason, message, now)


def _closed_gate(pod: Object) -> str:
    for gate in (pod.get("spec") or {}).get("readinessGates") or []:
        kind = str(gate.get("conditionType"))
        if (condition(pod, kind) or {}).get("status") != "True":
            return kind
    return ""


def _container_status(view: ContainerView, sandbox_id: str) -> dict[str, Any]:
    image = str(view.spec.get("image") or "")
    name = str(view.spec.get("name"))
    status: dict[str, Any] = {
        "name": name,
        "state": _state(view, sandbox_id),
        "lastState": {"terminated": _terminated(view.last, sandbox_id)} if view.last else {},
        "ready": view.ready,
        "started": view.started,
        "restartCount": view.restarts,
        "image": image,
        "imageID": "",
    }
    if view.current is not None:
        status["containerID"] = container_id(sandbox_id, view.current)
    return status


def container_id(sandbox_id: str, state: ContainerState) -> str:
    """``type://id``, as the API wants it; unique for each attempt."""
    return f"process://{sandbox_id}.{state.name}.{state.attempt}"


def _state(view: ContainerView, sandbox_id: str) -> dict[str, Any]:
    if view.waiting:
        waiting = {"reason": view.waiting}
        return {"waiting": {**waiting, "message": view.message} if view.message else waiting}
    if view.current is None:
        return {"waiting": {"reason": "ContainerCreating"}}
    if view.current.running:
        return {"running": {"startedAt": _time(view.current.started)}}
    return {"terminated": _terminated(view.current, sandbox_id)}


def _terminated(state: ContainerState, sandbox_id: str) -> dict[str, Any]:
    ended: dict[str, Any] = {
        "exitCode": state.exit_code,
        "reason": state.reason,
        "startedAt": _time(state.started),
        "finishedAt": _time(state.finished),
    }
    if sandbox_id:
        ended["containerID"] = container_id(sandbox_id, state)
    if state.signal:
        ended["signal"] = state.signal
    if state.message:
        ended["message"] = state.message
    return ended


def _time(nanoseconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(nanoseconds / 1e9, UTC))


@dataclass(frozen=True, slots=True)
class Memory:
    """What the API's status remembers of a container: for an agent that has just started."""

    restarts: int = 0
    ready: bool = False
    started: bool = False
    last: ContainerState | None = None  # the end before the current attempt
    current: ContainerState | None = None  # the newest attempt, as far as it was reported


def remember(pod: Object, name: str) -> Memory:
    """Read a container's status back."""
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        if status.get("name") == name:
            return _memory(status, name)
    return Memory()


def _memory(status: Mapping[str, Any], name: str) -> Memory:
    restarts = int(status.get("restartCount") or 0)
    state = status.get("state") or {}
    last = _ended((status.get("lastState") or {}).get("terminated"), name, restarts - 1)
    current: ContainerState | None = None
    if "running" in state:
        started = _nanoseconds(state["running"].get("startedAt"))
        current = ContainerState(name, restarts, started)
    elif "terminated" in state:
        current = _ended(state["terminated"], name, restarts)
    if current is None and last is not None:  # waiting for its next start: the newest attempt is the last end
        current = replace(last, attempt=restarts)
    return Memory(restarts, bool(status.get("ready")), bool(status.get("started")), last, current)


def _ended(raw: Mapping[str, Any] | None, name: str, attempt: int) -> ContainerState | None:
    if not raw:
        return None
    return ContainerState(
        name,
        max(attempt, 0),
        _nanoseconds(raw.get("startedAt")),
        _nanoseconds(raw.get("finishedAt")),
        int(raw.get("exitCode") or 0),
        int(raw.get("signal") or 0),
        str(raw.get("reason") or ""),
        str(raw.get("message") or ""),
    )


def _nanoseconds(text: object) -> int:
    try:
        return int(parse_time(str(text)).timestamp()) * 10**9
    except ValueError:
        return 0


def lost(state: ContainerState, now: int) -> ContainerState:
    """A container whose sandbox is gone: that it ended is known, how is not. Exit code as kubelet gives it."""
    if not state.running:
        return state
    return replace(
        state,
        finished=now,
        exit_code=137,
        reason=UNKNOWN_END,
        message="The container ended with its sandbox",
    )


def qos_class(spec: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, by requests and limits of cpu and memory."""
    everything = [c.get("resources") or {} for c in spec.get("containers") or []]
    if not any((r.get("requests") or {}) or (r.get("limits") or {}) for r in everything):
        return "BestEffort"
    for resources in everything:
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            if name not in limits or requests.get(name, limits[name]) != limits[name]:
                return "Burstable"
    return "Guaranteed"
