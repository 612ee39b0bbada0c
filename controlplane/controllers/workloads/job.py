"""Jobs: run pods until enough of them have succeeded, or too many have failed."""

from collections.abc import Mapping
from typing import Any

from controlplane.controllers.actions import Action, Delete
from controlplane.controllers.facts.owners import owned_by
from controlplane.controllers.facts.pods import is_active, spec_of
from controlplane.controllers.facts.templates import refusal, told
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper, itself
from controlplane.controllers.workloads import job_rules
from controlplane.controllers.workloads.job_rules import (
    backoff_left,
    deadline_left,
    is_over,
    ttl_left,
    verdict,
)
from controlplane.controllers.workloads.job_status import status, status_actions
from controlplane.controllers.workloads.job_tally import count, released, tracked
from netplane.kube.cache import Change
from netplane.kube.errors import StatusError, is_conflict
from netplane.kube.objects import (
    Object,
    ObjectKey,
    is_deleting,
    key_of,
    labels_of,
    namespace_of,
    owner_of,
    uid_of,
)
from netplane.kube.resources import JOBS, PODS

NAME_LABEL = "batch.kubernetes.io/job-name"


def job_key(pod: Object) -> ObjectKey | None:
    """The Job that a pod is of, or was of before it was orphaned; None for other pods."""
    holder = owner_of(pod)
    if holder is not None:
        is_job = holder.get("kind") == JOBS.kind
        return ObjectKey(namespace_of(pod), str(holder.get("name"))) if is_job else None
    name = labels_of(pod).get(NAME_LABEL)
    return ObjectKey(namespace_of(pod), name) if name and tracked(pod) else None


def decide(job: Object, pods: list[Object], kit: Kit) -> Decision:
    """One step for a Job that lives, given the pods it owns."""
    now = kit.now()
    if is_over(job):
        left = ttl_left(job, now)
        if left is not None and left <= 0:
            return Decision([Delete(JOBS, key_of(job), uid_of(job), propagation="Background")])
        return Decision(released(pods), left)
    tally = count(job, pods)
    end = verdict(job, tally, pods, now)
    actions: list[Action] = [*released(tally.release)]
    actions += status_actions(job, status(job, tally, pods, end, now))
    if end is None:
        actions += job_rules.manage(job, tally, pods, now, kit.suffix)
    else:
        actions += _ending(pods, end)
    waits = [deadline_left(job, now)] if end is None else []
    waits.append(backoff_left(pods, now) if end is None and not spec_of(job).get("suspend") else None)
    return Decision(actions, min((wait for wait in waits if wait is not None and wait > 0), default=None))


def _ending(pods: list[Object], end: job_rules.Verdict) -> list[Action]:
    """What still runs is stopped; when the Job has failed, it counts as failed too."""
    active = [pod for pod in pods if is_active(pod)]
    if end.condition == job_rules.CRITERIA_MET:
        return job_rules.stopped(active)
    return [Delete(PODS, key_of(pod), uid_of(pod)) for pod in active]


class JobController(Controller):
    """One key per Job; a key without a Job frees the pods that it left."""

    name = "job"
    component = "job-controller"
    resources = (JOBS, PODS)
    workers = 4

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._pods_of = kit.caches.index(PODS, "owner", owned_by)
        self._pods_named = kit.caches.index(PODS, "job", lambda pod: filter(None, (job_key(pod),)))

    def watches(self) -> Mapping[Any, Mapper]:
        """A Job itself, and the Job of a pod."""
        return {JOBS: itself, PODS: self._of_pod}

    def decide(self, key: ObjectKey) -> Decision:
        """Free what no living Job counts; then look at the Job."""
        job = self.caches[JOBS].get(*key)
        going = job is None or is_deleting(job)
        uid = uid_of(job) if job is not None and not going else ""
        strays = [pod for pod in self._pods_named.get(key) if uid not in owned_by(pod)]
        actions = released(strays)
        if job is None or going or actions:
            return Decision(actions)
        return decide(job, self._pods_of.get(uid), self.kit)

    async def reconcile(self, key: ObjectKey) -> float | None:
        """As every controller; what pods the API made and refused becomes an Event."""
        job, decision = self.caches[JOBS].get(*key), self.decide(key)
        pods = [action for action in decision.actions if getattr(action, "resource", None) == PODS]
        try:
            await self.doer.perform(key, decision.actions)
        except StatusError as error:
            if job is not None and not is_conflict(error):
                await self.doer.perform(key, [refusal(job, pods, error)])
            raise
        if job is not None:
            await self.doer.perform(key, told(job, pods))
        return decision.again_after

    @staticmethod
    def _of_pod(change: Change) -> list[ObjectKey]:
        keys = (job_key(pod) for pod in (change.old, change.new) if pod is not None)
        return list(dict.fromkeys(key for key in keys if key is not None))
