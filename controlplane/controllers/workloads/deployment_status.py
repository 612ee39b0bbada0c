"""A Deployment's status: the counts, and the two conditions that ``kubectl rollout status`` waits on.

Source: Kubernetes ``pkg/controller/deployment/{sync,progress}.go``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.controllers.facts.pods import spec_of, status_of
from controlplane.controllers.workloads.rollout import Bounds
from netplane.kube.objects import Object, condition, meta, name_of, parse_time, rfc3339

DEFAULT_DEADLINE = 600
COMPLETE = "NewReplicaSetAvailable"


@dataclass(frozen=True, slots=True)
class StatusPlan:
    """The status to write, and when the progress deadline should be looked at again."""

    status: dict[str, Any]
    again_after: float | None


def deployment_status(
    deployment: Object, limits: Bounds, present: Object | None, sets: Sequence[Object], now: datetime
) -> StatusPlan:
    """What the ReplicaSets' own statuses add up to."""
    old = status_of(deployment)
    counted = _counts(deployment, present, sets)
    conditions = [c for c in old.get("conditions") or [] if c.get("type") != "ReplicaFailure"]
    enough = counted["availableReplicas"] >= limits.least_available
    conditions = _with_condition(
        conditions,
        "Available",
        "True" if enough else "False",
        "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        f"Deployment {'has' if enough else 'does not have'} minimum availability.",
        now,
    )
    progress, again_after = _progress(deployment, counted, present, now)
    if progress is not None:
        conditions = _with_condition(conditions, "Progressing", *progress, now)
    failure = next((c for rs in sets if (c := condition(rs, "ReplicaFailure"))), None)
    if failure is not None:
        why = (failure.get("reason", ""), failure.get("message", ""))
        conditions = _with_condition(conditions, "ReplicaFailure", "True", *why, now)
    status = {**counted, "conditions": conditions}
    if old.get("collisionCount"):
        status["collisionCount"] = old["collisionCount"]
    return StatusPlan(status, again_after)


def is_complete(deployment: Object, counted: dict[str, Any]) -> bool:
    """Whether only updated pods run, all of them, and all are available."""
    wanted = int(spec_of(deployment).get("replicas", 1))
    fields = ("updatedReplicas", "replicas", "availableReplicas")
    return all(int(counted.get(field) or 0) == wanted for field in fields)


def _counts(deployment: Object, present: Object | None, sets: Sequence[Object]) -> dict[str, Any]:
    def total(field: str) -> int:
        return sum(int(status_of(rs).get(field) or 0) for rs in sets)

    available = total("availableReplicas")
    wanted = sum(int(spec_of(rs).get("replicas", 1)) for rs in sets)
    return {
        "observedGeneration": meta(deployment).get("generation", 0),
        "replicas": total("replicas"),
        "updatedReplicas": int(status_of(present).get("replicas") or 0) if present is not None else 0,
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, wanted - available),
    }


Progress = tuple[str, str, str]


def _progress(
    deployment: Object, counted: dict[str, Any], present: Object | None, now: datetime
) -> tuple[Progress | None, float | None]:
    """The Progressing condition (status, reason, message; None leaves it), and when it could time out."""
    subject = (
        f'ReplicaSet "{name_of(present)}"' if present is not None else f'Deployment "{name_of(deployment)}"'
    )
    current = condition(deployment, "Progressing")
    reason = current.get("reason") if current is not None else None
    if spec_of(deployment).get("paused"):
        return ("Unknown", "DeploymentPaused", "Deployment is paused"), None
    if present is not None and is_complete(deployment, counted):
        return ("True", COMPLETE, f"{subject} has successfully progressed."), None
    rolled_out = reason == COMPLETE and counted["replicas"] == counted["updatedReplicas"]
    if rolled_out and not _template_changed(deployment):
        return None, None  # pods that fail after a complete rollout are no failed rollout
    if current is None or reason in (COMPLETE, "DeploymentPaused") or _moved(deployment, counted):
        return ("True", "ReplicaSetUpdated", f"{subject} is progressing."), _deadline(deployment)
    left = _seconds_left(deployment, current, now)
    if left <= 0:
        return ("False", "ProgressDeadlineExceeded", f"{subject} has timed out progressing."), None
    return None, left


def _template_changed(deployment: Object) -> bool:
    """Whether this is the first look at a changed spec."""
    return bool(status_of(deployment).get("observedGeneration") != meta(deployment).get("generation"))


def _moved(deployment: Object, counted: dict[str, Any]) -> bool:
    """Whether the rollout got anywhere since the last status."""
    old = status_of(deployment)

    def before(field: str) -> int:
        return int(old.get(field) or 0)

    old_pods = counted["replicas"] - counted["updatedReplicas"]
    return (
        any(
            counted[field] > before(field)
            for field in ("updatedReplicas", "readyReplicas", "availableReplicas")
        )
        or old_pods < before("replicas") - before("updatedReplicas")
        or _template_changed(deployment)
    )


def _deadline(deployment: Object) -> float:
    return float(spec_of(deployment).get("progressDeadlineSeconds") or DEFAULT_DEADLINE)


def _seconds_left(deployment: Object, current: dict[str, Any], now: datetime) -> float:
    if current.get("reason") == "ProgressDeadlineExceeded":
        return 0.0
    since = current.get("lastUpdateTime") or current.get("lastTransitionTime") or rfc3339(now)
    # One second more: the recorded time is cut to whole seconds.
    return _deadline(deployment) + 1 - (now - parse_time(since)).total_seconds()


def _with_condition(
    conditions: list[dict[str, Any]], kind: str, status: str, reason: str, message: str, now: datetime
) -> list[dict[str, Any]]:
    """Like every condition, with the Deployment's own ``lastUpdateTime``, the start of the progress deadline."""
    old = next((c for c in conditions if c.get("type") == kind), None)
    same = old is not None and old.get("status") == status and old.get("reason") == reason
    if old is not None and same and reason != "ReplicaSetUpdated":
        return [{**c, "message": message} if c is old else c for c in conditions]
    kept = old is not None and old.get("status") == status
    new = {
        "type": kind,
        "status": status,
        "lastUpdateTime": rfc3339(now),
        "lastTransitionTime": old.get("lastTransitionTime") if old is not None and kept else rfc3339(now),
        "reason": reason,
        "message": message,
    }
    if old is None:
        return [*conditions, new]
    return [new if c is old else c for c in conditions]
