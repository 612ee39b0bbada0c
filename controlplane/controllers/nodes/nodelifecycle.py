"""Hearing nodes' heartbeats, and doing what ``liveness`` decides when they stop.

A heartbeat counts from when *we* saw the Lease change, never by the node's own clock. And silence counts only
while we can hear: the API itself is asked before a node is declared dead, and after a time in which we heard
nobody all nodes get time to come back.
"""

from collections.abc import Mapping
from typing import Any

from controlplane.controllers.facts.pods import node_of
from controlplane.controllers.facts.taints import taints_of
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper, itself
from controlplane.controllers.nodes.liveness import Verdict, evictions, node_actions, unready_pods
from netplane.kube import errors
from netplane.kube.cache import Change
from netplane.kube.objects import Object, ObjectKey, condition
from netplane.kube.resources import LEASES, NODES, PODS

LEASE_NAMESPACE = "kube-node-lease"
# After our own start nodes get at least this long: their agents, whose connections broke, try again within it.
FIRST_GRACE = 10.0


class NodeLifecycleController(Controller):
    """One key per Node."""

    name = "nodelifecycle"
    component = "node-controller"
    resources = (NODES, LEASES, PODS)
    workers = 2

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._clock = kit.monotonic
        self._listening_since = self._last_heard = self._clock()
        self._heard: dict[str, float] = {}
        self._pods_on = kit.caches.index(PODS, "node", lambda pod: (node_of(pod),))

    def watches(self) -> Mapping[Any, Mapper]:
        """Nodes, their Leases, and pods on nodes that evict."""
        return {NODES: self._of_node, LEASES: self._of_lease, PODS: self._of_pod}

    def decide(self, key: ObjectKey) -> Decision:
        """The Node's own state first; its pods in the same step, so that endpoints leave at once."""
        node = self.caches[NODES].get(*key)
        if node is None:
            self._heard.pop(key.name, None)
            return Decision()
        left = self._seconds_left(key.name)
        verdict = Verdict(alive=left > 0, isolated=left <= 0 and self._nobody_alive())
        now = self.kit.now()
        pods = self._pods_on.get(key.name)
        actions = node_actions(node, verdict, now)
        if not verdict.alive and not verdict.isolated:
            actions += unready_pods(pods, now)
        evicted = evictions(node, pods, verdict, self.options, now)
        waits = [wait for wait in (left if left > 0 else None, evicted.next_in) if wait is not None]
        if verdict.isolated:
            waits.append(1.0)
        return Decision([*actions, *evicted.actions], min(waits, default=None))

    async def reconcile(self, key: ObjectKey) -> float | None:
        """As every controller, but a Lease newer than our cache saves its node."""
        node = self.caches[NODES].get(*key)
        known_dead = node is None or (condition(node, "Ready") or {}).get("status") == "Unknown"
        if not known_dead and self._seconds_left(key.name) <= 0:
            cached = self.caches[LEASES].get(LEASE_NAMESPACE, key.name)
            if _renewed(await self._live_lease(key.name)) != _renewed(cached):
                self._heard[key.name] = self._clock()
        return await super().reconcile(key)

    async def _live_lease(self, name: str) -> Object | None:
        try:
            return await self.kit.client.get(LEASES, name, LEASE_NAMESPACE)
        except errors.StatusError as error:
            if errors.is_not_found(error):
                return None
            raise

    def _seconds_left(self, name: str) -> float:
        """Until the node counts as unreachable; 0 or less when it does."""
        grace = self.options.node_monitor_grace_period
        heard = self._heard.setdefault(name, self._clock())
        first = self._listening_since + max(grace, FIRST_GRACE)
        return max(heard + grace, first) - self._clock()

    def _nobody_alive(self) -> bool:
        return all(self._seconds_left(name) <= 0 for _, name in self.caches[NODES].objects)

    def _of_node(self, change: Change) -> list[ObjectKey]:
        """What a node says of itself is a heartbeat too; of a silent one only we say Unknown."""
        node = change.new
        said = condition(node, "Ready") if node is not None else None
        before = condition(change.old, "Ready") if change.old is not None else None
        if change.old is None or (said is not None and said != before and said.get("status") != "Unknown"):
            self._heard[change.key.name] = self._clock()
        return list(itself(change))

    def _of_lease(self, change: Change) -> list[ObjectKey]:
        if change.key.namespace != LEASE_NAMESPACE or change.new is None:
            return []
        if _renewed(change.new) == _renewed(change.old):
            return []
        name = change.key.name
        now = self._heard[name] = self._clock()
        if now - self._last_heard > self.options.node_monitor_grace_period / 2:
            self._listening_since = now  # nobody was heard for long: that was us, or the API, not they
        self._last_heard = now
        node = self.caches[NODES].get("", name)
        # A heartbeat of a node in good standing changes nothing; its timer looks again by itself.
        quiet = (
            node is not None
            and not taints_of(node)
            and (condition(node, "Ready") or {}).get("status") == "True"
        )
        return [] if quiet else [ObjectKey("", name)]

    def _of_pod(self, change: Change) -> list[ObjectKey]:
        node = self.caches[NODES].get("", node_of(change.object))
        if node is None or not any(t.get("effect") == "NoExecute" for t in taints_of(node)):
            return []
        return [ObjectKey("", node_of(change.object))]


def _renewed(lease: Object | None) -> str:
    return str(((lease or {}).get("spec") or {}).get("renewTime") or "")
