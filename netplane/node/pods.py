"""All pods of this node: one worker each, from the API's watch and from the sandboxes that were here before us.

Nothing is removed because the API is silent: a pod goes when the API, having answered with a complete list, does not
have it, or says that it is deleted.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable

from netplane.kube.cache import Cache, Change
from netplane.kube.client import Backoff
from netplane.kube.following import follow
from netplane.kube.objects import Object, is_deleting, name_of, namespace_of, uid_of
from netplane.kube.resources import PODS
from netplane.node import pod_volumes
from netplane.node.pod_context import PodContext
from netplane.node.pod_sandbox import sweep
from netplane.node.pod_worker import PodWorker
from netplane.node.runtimes import Sandbox

log = logging.getLogger(__name__)

PHASES = ("Pending", "Running", "Succeeded", "Failed")


class Pods:
    """Workers by the pods' uids."""

    def __init__(self, context: PodContext) -> None:
        self.context = self._context = context
        self.cache = Cache(PODS)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, registered: asyncio.Event) -> None:
        """Adopt at once; follow the API once this machine is ``registered`` as the node, until cancelled.

        Not earlier: the pods of that node's name may be another machine's.
        """
        found = await self._context.runtime.adopt()
        await sweep(self._context, [sandbox.sandbox_id for sandbox in found])
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._context.configs.open(tasks)
            for sandbox in found:
                self._begin(sandbox.pod, sandbox, from_api=False)
            await registered.wait()
            await follow(
                self._context.client,
                self.cache,
                field_selector=f"spec.nodeName={self._context.node}",
                on_change=self._changed,
                on_synced=self._synced,
            )

    def _changed(self, change: Change) -> None:
        if change.new is None:
            self._removed(change.object)
            return
        if change.old is not None and uid_of(change.old) != uid_of(change.new):
            self._removed(change.old)  # another pod has taken the name
        self._seen(change.new)

    def _seen(self, pod: Object) -> None:
        worker = self._workers.get(uid_of(pod))
        if worker is not None:
            worker.update(pod)
        elif not self._is_over(pod):
            self._begin(pod, None, from_api=True)

    def _is_over(self, pod: Object) -> bool:
        """A pod that ended before we came, and that nobody deletes: nothing to do."""
        deleting = (pod.get("metadata") or {}).get("deletionTimestamp")
        return not deleting and (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")

    def _removed(self, pod: Object) -> None:
        if worker := self._workers.get(uid_of(pod)):
            worker.removed()

    def _synced(self) -> None:
        """After a complete list: what it does not have is gone."""
        present = {uid_of(pod) for pod in self.cache.values()}
        for uid, worker in self._workers.items():
            if uid not in present:
                worker.removed()
        pod_volumes.sweep(self._context.volumes, [*present, *self._workers])

    def _begin(self, pod: Object, sandbox: Sandbox | None, *, from_api: bool) -> None:
        assert self._tasks is not None
        worker = PodWorker(self._context, pod, sandbox, from_api=from_api)
        self._workers[uid_of(pod)] = worker
        self._tasks.create_task(self._tend(worker), name=f"pod {namespace_of(pod)}/{name_of(pod)}")

    async def _tend(self, worker: PodWorker) -> None:
        """Run a worker to its end. A bug that one pod meets must not take the others' care away: it is logged, and
        the pod is looked at anew.
        """
        backoff = Backoff(1.0, 60.0)
        uid = uid_of(worker.pod)
        while True:
            try:
                await worker.run()
            except* Exception:
                log.exception("pod %s/%s: bug", namespace_of(worker.pod), name_of(worker.pod))
            else:
                break
            await asyncio.sleep(backoff.delay())
            worker = worker.anew()
            self._workers[uid] = worker
        del self._workers[uid]

    def workers(self) -> Iterable[PodWorker]:
        """All pods that are tended now."""
        return self._workers.values()

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod by name; of two namesakes the one that is not going."""
        found = [
            worker
            for worker in self._workers.values()
            if namespace_of(worker.pod) == namespace and name_of(worker.pod) == name
        ]
        return min(found, key=lambda worker: is_deleting(worker.pod), default=None)

    def objects(self) -> list[Object]:
        """The pods of this node as this agent knows them."""
        return [worker.pod for worker in self._workers.values()]

    def count_phases(self) -> None:
        """Bring the gauge up to date."""
        counted = Counter(worker.phase or "Pending" for worker in self._workers.values())
        for phase in PHASES:
            self._context.metrics.pods.labels(phase).set(counted[phase])
