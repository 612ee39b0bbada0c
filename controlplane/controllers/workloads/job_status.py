"""A Job's status: its counts, and its conditions in the order in which the Job's life has them. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from controlplane.controllers.actions import Action, Record, status_patch
from controlplane.controllers.facts.pods import is_active, is_ready, phase_of, spec_of, status_of
from controlplane.controllers.workloads.job_rules import COMPLETE, SUSPENDED, Verdict
from controlplane.controllers.workloads.job_tally import Tally, format_indexes, is_indexed
from netplane.kube.objects import Object, condition, is_deleting, is_true, rfc3339, set_condition
from netplane.kube.resources import JOBS


def status(
    job: Object, tally: Tally, pods: Sequence[Object], end: Verdict | None, now: datetime
) -> dict[str, Any]:
    """The fields to write; None takes a field away."""
    old, stamp = status_of(job), rfc3339(now)
    suspended = bool(spec_of(job).get("suspend")) and end is None
    active = [pod for pod in pods if is_active(pod)]
    leaving = [pod for pod in pods if is_deleting(pod) and phase_of(pod) not in ("Succeeded", "Failed")]
    conditions = _suspension(job, list(old.get("conditions") or []), suspended, stamp)
    found: dict[str, Any] = {
        "active": len(active) or None,
        "ready": sum(is_ready(pod) for pod in active),
        "terminating": len(leaving),
        "succeeded": tally.counted_succeeded or None,
        "failed": tally.counted_failed or None,
        "uncountedTerminatedPods": {
            "succeeded": list(tally.uncounted_succeeded) or None,
            "failed": list(tally.uncounted_failed) or None,
        },
        "startTime": None if suspended else old.get("startTime") or stamp,
    }
    if is_indexed(job):
        found["completedIndexes"] = format_indexes(tally.indexes) or None
    if end is not None:
        conditions = _told(conditions, end.condition, end, stamp)
        if tally.settled and not active and not leaving:
            conditions = _told(conditions, end.final, end, stamp)
            if end.final == COMPLETE:
                found["completionTime"] = stamp
    return {**found, "conditions": conditions}


def _told(conditions: list[dict[str, Any]], kind: str, end: Verdict, stamp: str) -> list[dict[str, Any]]:
    before = next((c for c in conditions if c.get("type") == kind), None)
    if before is not None and before.get("status") == "True":
        return conditions
    told = set_condition(conditions, kind, "True", end.reason, end.message, stamp)
    return [{**c, "lastProbeTime": stamp} if c.get("type") == kind else c for c in told]


def _suspension(
    job: Object, conditions: list[dict[str, Any]], suspended: bool, stamp: str
) -> list[dict[str, Any]]:
    if suspended:
        return set_condition(conditions, SUSPENDED, "True", "JobSuspended", "Job suspended", stamp)
    if condition(job, SUSPENDED) is not None:
        return set_condition(conditions, SUSPENDED, "False", "JobResumed", "Job resumed", stamp)
    return conditions


def status_actions(job: Object, wanted: dict[str, Any]) -> list[Action]:
    """The write where the status is not so already, and the Events of what it newly says."""
    old = status_of(job)
    if all(_bare(old.get(field)) == _bare(value) for field, value in wanted.items()) and old:
        return []
    after = {"status": {"conditions": wanted["conditions"]}}
    return [status_patch(JOBS, job, wanted), *_events(job, after)]


def _bare(value: object) -> object:
    """What is absent, empty and zero are the same."""
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if inner}
    return value or None


def _events(job: Object, after: Object) -> list[Action]:
    events: list[Action] = []
    for kind in (COMPLETE, "Failed", SUSPENDED):
        found = condition(after, kind)
        if found is None or is_true(after, kind) == is_true(job, kind):
            continue
        if kind == "Failed":
            events.append(Record(job, "Warning", str(found["reason"]), str(found.get("message") or "")))
        elif kind == COMPLETE:
            events.append(Record(job, "Normal", "Completed", "Job completed"))
        else:
            word = "Suspended" if is_true(after, kind) else "Resumed"
            events.append(Record(job, "Normal", word, f"Job {word.lower()}"))
    return events
