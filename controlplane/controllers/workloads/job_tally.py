"""Counting the pods of a Job that have ended: each once, also if it is deleted a moment later.

A pod carries our finalizer until it is counted. Counting is three writes, each safe to repeat: its uid goes into
``status.uncountedTerminatedPods``; the finalizer comes off; the uid leaves the list and the number grows.
Source: Kubernetes ``pkg/controller/job/job_controller.go`` (trackJobStatusAndRemoveFinalizers).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.actions import Action, metadata_patch
from controlplane.controllers.facts.pods import is_terminal, phase_of, spec_of, status_of
from netplane.kube.objects import Object, annotations_of, is_deleting, meta, uid_of
from netplane.kube.resources import PODS

FINALIZER = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True)
class Tally:
    """``succeeded`` and ``failed``: all that have ended so far. The rest is what the status keeps about it."""

    succeeded: int
    failed: int
    counted_succeeded: int
    counted_failed: int
    uncounted_succeeded: tuple[str, ...]
    uncounted_failed: tuple[str, ...]
    indexes: frozenset[int]
    release: tuple[Object, ...]

    @property
    def settled(self) -> bool:
        """Whether nothing is half counted."""
        return not (self.uncounted_succeeded or self.uncounted_failed or self.release)


def is_indexed(job: Object) -> bool:
    """Whether each completion is one of a kind."""
    return spec_of(job).get("completionMode") == "Indexed"


def tracked(pod: Object) -> bool:
    """Whether the pod is still to be counted."""
    return FINALIZER in (meta(pod).get("finalizers") or [])


def index_of(pod: Object) -> int | None:
    """The completion index of a pod of an Indexed Job."""
    text = annotations_of(pod).get(INDEX, "")
    return int(text) if text.isdecimal() else None


def has_ended(job: Object, pod: Object) -> bool:
    """Whether the pod counts as failed or succeeded: a pod that is being deleted has failed, unless the Job waits."""
    if is_terminal(pod):
        return True
    return is_deleting(pod) and spec_of(job).get("podReplacementPolicy") != "Failed"


def count(job: Object, pods: Sequence[Object]) -> Tally:
    """The next state of the count, from the status and the Job's pods as they are."""
    status, held = status_of(job), {uid_of(pod): pod for pod in pods if tracked(pod)}
    noted: Mapping[str, Any] = status.get("uncountedTerminatedPods") or {}
    old_succeeded, old_failed = list(noted.get("succeeded") or []), list(noted.get("failed") or [])
    known_indexes = parse_indexes(str(status.get("completedIndexes") or ""))
    indexes, release = set(known_indexes), [held[uid] for uid in (*old_succeeded, *old_failed) if uid in held]
    succeeded = [uid for uid in old_succeeded if uid in held]
    failed = [uid for uid in old_failed if uid in held]
    for uid, pod in held.items():
        if uid in old_succeeded or uid in old_failed or not has_ended(job, pod):
            continue
        if phase_of(pod) != "Succeeded":
            failed.append(uid)
        elif not is_indexed(job):
            succeeded.append(uid)
        elif (index := index_of(pod)) is None or index in known_indexes:
            release.append(pod)
        else:
            indexes.add(index)
    counted_succeeded = int(status.get("succeeded") or 0) + len(old_succeeded) - _left(old_succeeded, held)
    counted_failed = int(status.get("failed") or 0) + len(old_failed) - _left(old_failed, held)
    if is_indexed(job):
        limit = int(spec_of(job).get("completions") or 0)
        indexes = {index for index in indexes if index < limit}
        counted_succeeded = len(indexes)
    return Tally(
        counted_succeeded + len(succeeded),
        counted_failed + len(failed),
        counted_succeeded,
        counted_failed,
        tuple(succeeded),
        tuple(failed),
        frozenset(indexes),
        tuple(release),
    )


def _left(uids: Iterable[str], held: Mapping[str, Object]) -> int:
    return sum(uid in held for uid in uids)


def released(pods: Iterable[Object]) -> list[Action]:
    """Take our finalizer off these pods."""
    return [
        metadata_patch(
            PODS,
            pod,
            {
                "uid": uid_of(pod),
                "finalizers": [f for f in meta(pod).get("finalizers") or [] if f != FINALIZER],
            },
        )
        for pod in pods
        if tracked(pod)
    ]


def parse_indexes(text: str) -> frozenset[int]:
    """``1,3-5,7`` as a set; what is no number is left out."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def format_indexes(indexes: Iterable[int]) -> str:
    """The set as ``status.completedIndexes`` has it: runs of three and more are shortened."""
    runs: list[list[int]] = []
    for index in sorted(indexes):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(str(index) for index in run) for run in runs
    )
