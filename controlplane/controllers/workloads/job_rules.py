"""What to do about a Job: how many pods it lacks, whether it is over and why. Pure.

Laws: never more than ``parallelism`` active pods, never more pods started than completions lack; a Job that is over
starts nothing. Source: Kubernetes ``pkg/controller/job/{job_controller,backoff_utils}.go``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.controllers.actions import Action, Create, Delete
from controlplane.controllers.facts.pods import is_active, moment, phase_of, spec_of, status_of
from controlplane.controllers.facts.templates import pod_from_template
from controlplane.controllers.workloads.job_tally import (
    FINALIZER,
    INDEX,
    Tally,
    index_of,
    is_indexed,
    released,
)
from netplane.kube.objects import Object, is_deleting, is_true, key_of, name_of, parse_time, uid_of
from netplane.kube.resources import JOBS, PODS

COMPLETE, FAILED = "Complete", "Failed"
CRITERIA_MET, FAILURE_TARGET, SUSPENDED = "SuccessCriteriaMet", "FailureTarget", "Suspended"
BURST = 500
BACKOFF_FIRST, BACKOFF_MOST = 10.0, 600.0  # seconds between a failure and the next pod


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a Job is over: the condition that announces it, its reason and message."""

    condition: str
    reason: str
    message: str

    @property
    def final(self) -> str:
        """The condition that follows once no pod is left running."""
        return COMPLETE if self.condition == CRITERIA_MET else FAILED


def is_over(job: Object) -> bool:
    """Whether the Job has its last condition."""
    return is_true(job, COMPLETE) or is_true(job, FAILED)


def verdict(job: Object, tally: Tally, pods: Sequence[Object], now: datetime) -> Verdict | None:
    """Whether it is to end, for the reason given first."""
    for condition in status_of(job).get("conditions") or []:
        if condition.get("type") in (CRITERIA_MET, FAILURE_TARGET) and condition.get("status") == "True":
            reason, message = str(condition.get("reason") or ""), str(condition.get("message") or "")
            return Verdict(str(condition["type"]), reason, message)
    spec = spec_of(job)
    limit = int(spec.get("backoffLimit", 6))
    if tally.failed > limit or _restarts_exceed(spec, pods, limit):
        return Verdict(FAILURE_TARGET, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    left = deadline_left(job, now)
    if left is not None and left <= 0:
        return Verdict(FAILURE_TARGET, "DeadlineExceeded", "Job was active longer than specified deadline")
    if _completed(spec, tally, pods):
        return Verdict(CRITERIA_MET, "CompletionsReached", "Reached expected number of succeeded pods")
    return None


def _restarts_exceed(spec: dict[str, Any], pods: Sequence[Object], limit: int) -> bool:
    """With OnFailure it is containers that fail, not pods."""
    if spec_of(spec.get("template") or {}).get("restartPolicy") != "OnFailure":
        return False
    restarts = sum(
        int(container.get("restartCount") or 0)
        for pod in pods
        if is_active(pod)
        for container in [
            *(status_of(pod).get("initContainerStatuses") or []),
            *(status_of(pod).get("containerStatuses") or []),
        ]
    )
    return restarts > 0 if limit == 0 else restarts >= limit


def _completed(spec: dict[str, Any], tally: Tally, pods: Sequence[Object]) -> bool:
    completions = spec.get("completions")
    if completions is not None:
        return tally.succeeded >= int(completions)
    return tally.succeeded > 0 and not any(is_active(pod) for pod in pods)


def deadline_left(job: Object, now: datetime) -> float | None:
    """Seconds until ``activeDeadlineSeconds``; None without one, or while the Job has not started."""
    seconds, started = spec_of(job).get("activeDeadlineSeconds"), status_of(job).get("startTime")
    if seconds is None or not started or spec_of(job).get("suspend"):
        return None
    return float(seconds) - (now - parse_time(started)).total_seconds()


def ttl_left(job: Object, now: datetime) -> float | None:
    """Seconds until a finished Job is deleted; None if it is to stay."""
    seconds = spec_of(job).get("ttlSecondsAfterFinished")
    if seconds is None:
        return None
    ended = [
        parse_time(condition["lastTransitionTime"])
        for condition in status_of(job).get("conditions") or []
        if condition.get("type") in (COMPLETE, FAILED) and condition.get("lastTransitionTime")
    ]
    return float(seconds) - (now - min(ended)).total_seconds() if ended else None


def manage(
    job: Object, tally: Tally, pods: Sequence[Object], now: datetime, suffix: Callable[[], str]
) -> list[Action]:
    """The pods to start or stop for a Job that goes on."""
    active = [pod for pod in pods if is_active(pod)]
    spec = spec_of(job)
    if spec.get("suspend"):
        return stopped(active)
    # Who waits for pods to be really gone counts those that are leaving as if they ran.
    leaving = [pod for pod in pods if _still_leaving(pod)] if _waits(spec) else []
    wanted = _wanted_active(spec, tally, len(active))
    surplus = len(active) - wanted
    if surplus > 0:
        return stopped(_first_to_stop(active)[:surplus])
    missing = min(wanted - len(active) - len(leaving), BURST)
    if missing <= 0 or backoff_left(pods, now) > 0:
        return []
    if not is_indexed(job):
        return [Create(PODS, pod_for(job, suffix())) for _ in range(missing)]
    taken = {index_of(pod) for pod in (*active, *leaving)} | tally.indexes
    free = [index for index in range(int(spec.get("completions") or 0)) if index not in taken]
    return [Create(PODS, pod_for(job, suffix(), index)) for index in free[:missing]]


def _waits(spec: dict[str, Any]) -> bool:
    return spec.get("podReplacementPolicy") == "Failed"


def _still_leaving(pod: Object) -> bool:
    return is_deleting(pod) and phase_of(pod) not in ("Succeeded", "Failed")


def _wanted_active(spec: dict[str, Any], tally: Tally, active: int) -> int:
    parallelism = int(spec.get("parallelism", 1))
    completions = spec.get("completions")
    if completions is None:  # a queue: after the first success the others end by themselves
        return min(active, parallelism) if tally.succeeded else parallelism
    return max(0, min(int(completions) - tally.succeeded, parallelism))


def _first_to_stop(active: Sequence[Object]) -> list[Object]:
    """What has done least: not running first, then the youngest."""
    started = sorted(active, key=lambda pod: str(moment(pod, "creationTimestamp")), reverse=True)
    return sorted(started, key=lambda pod: phase_of(pod) == "Running")


def stopped(pods: Sequence[Object]) -> list[Action]:
    """Delete pods that are not to count as failures: uncounted first."""
    return [*released(pods), *(Delete(PODS, key_of(pod), uid_of(pod)) for pod in pods)]


def backoff_left(pods: Sequence[Object], now: datetime) -> float:
    """Seconds until a pod may follow the last failure: 10, 20, 40, ... since the last success."""
    success = max((_ended(pod) for pod in pods if phase_of(pod) == "Succeeded"), default=None)
    failures = [_ended(pod) for pod in pods if phase_of(pod) == "Failed"]
    since = [when for when in failures if success is None or when > success]
    if not since:
        return 0.0
    pause: float = min(BACKOFF_FIRST * 2 ** min(len(since) - 1, 16), BACKOFF_MOST)
    return pause - (now - max(since)).total_seconds()


def _ended(pod: Object) -> datetime:
    """When its last container ended; where nothing says so, when it was created."""
    times = [
        parse_time(terminated["finishedAt"])
        for container in status_of(pod).get("containerStatuses") or []
        if (terminated := (container.get("state") or {}).get("terminated")) and terminated.get("finishedAt")
    ]
    born = moment(pod, "creationTimestamp")
    return max(times) if times else born or datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def pod_for(job: Object, suffix: str, index: int | None = None) -> Object:
    """A pod of the Job, to be counted; with an index for an Indexed one."""
    pod = pod_from_template(JOBS, job, suffix if index is None else f"{index}-{suffix}")
    metadata = pod["metadata"]
    metadata["finalizers"] = [*(metadata.get("finalizers") or []), FINALIZER]
    if index is None:
        return pod
    metadata["annotations"] = {**(metadata.get("annotations") or {}), INDEX: str(index)}
    metadata["labels"] = {**metadata["labels"], INDEX: str(index)}
    spec = dict(pod["spec"])
    spec.setdefault("hostname", f"{name_of(job)}-{index}")
    for field in ("initContainers", "containers"):
        if spec.get(field):
            spec[field] = [_with_index(container) for container in spec[field]]
    pod["spec"] = spec
    return pod


def _with_index(container: dict[str, Any]) -> dict[str, Any]:
    variables = list(container.get("env") or [])
    if any(variable.get("name") == "JOB_COMPLETION_INDEX" for variable in variables):
        return container
    source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{INDEX}']"}}
    return {**container, "env": [*variables, {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}]}
