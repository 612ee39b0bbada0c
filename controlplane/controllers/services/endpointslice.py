"""Pods' readiness, Services' selectors → EndpointSlices, within one turn of the event loop.

This is the hot path between a pod becoming ready (or not) and every proxy knowing. Nothing here waits, batches or
polls: the queue alone merges events that arrive while a write is under way. The Endpoints mirror has its own
queue, so that it never delays a slice.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

from controlplane.controllers.actions import Delete
from controlplane.controllers.facts.pods import (
    addresses_of,
    is_ready,
    is_terminal,
    matches_labels,
    node_of,
    spec_of,
)
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper, itself
from controlplane.controllers.services.endpoints import ZONE, Endpoint, Group, Memory, has_endpoints
from controlplane.controllers.services.mirror import reconcile_mirror
from controlplane.controllers.services.slices import MANAGED_BY, OUR_NAME, SERVICE_NAME, reconcile_slices
from netplane.errors import NetplaneError
from netplane.kube.cache import Change
from netplane.kube.objects import (
    Object,
    ObjectKey,
    condition,
    is_deleting,
    key_of,
    labels_of,
    meta,
    namespace_of,
    parse_time,
    rfc3339_micro,
    uid_of,
)
from netplane.kube.resources import ENDPOINTS, ENDPOINTSLICES, NODES, PODS, SERVICES, Resource

SECOND = timedelta(seconds=1)
MIRROR_SECONDS = 0.5  # between two writes of one Endpoints object; nothing that forwards traffic reads these


class ServiceController(Controller):
    """What slices and the mirror share: which Services a change concerns, and which pods a Service selects."""

    resources = (SERVICES, PODS, NODES, ENDPOINTSLICES, ENDPOINTS)
    workers = 2
    output: ClassVar[Resource]

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._pods_by_label = kit.caches.index(PODS, "label", _label_terms)
        self._pods_on = kit.caches.index(PODS, "node", lambda pod: (node_of(pod),))
        self._selecting = kit.caches.index(SERVICES, "selector", _selector_terms)
        self._triggers: dict[ObjectKey, datetime] = {}
        self._writing: dict[ObjectKey, datetime] = {}
        self._memories: dict[ObjectKey, Memory] = {}

    def watches(self) -> Mapping[Any, Mapper]:
        """Services, the pods they select, the nodes those run on, and what we wrote."""
        return {
            SERVICES: self._of_service,
            PODS: self._of_pod,
            NODES: self._of_node,
            self.output: self._of_output,
        }

    def wanted(self, service: Object) -> Mapping[Group, list[Endpoint]]:
        """The Service's endpoints as pods and nodes are now."""
        nodes = self.caches[NODES]
        memory = self._memories.setdefault(key_of(service), Memory())
        return memory.endpoints_of(service, self._selected(service), lambda name: nodes.get("", name))

    def trigger(self, key: ObjectKey) -> str | None:
        """When the oldest change that is now being written began."""
        since = self._writing.get(key)
        return rfc3339_micro(since) if since is not None else None

    async def reconcile(self, key: ObjectKey) -> float | None:
        """As every controller; what could not be written keeps its beginning for the next try."""
        since = self._triggers.pop(key, None)
        if since is None:
            return await super().reconcile(key)
        self._writing[key] = since
        try:
            return await super().reconcile(key)
        except NetplaneError:
            self._began([key], since)
            raise
        finally:
            del self._writing[key]

    def _selected(self, service: Object) -> list[Object]:
        selector = spec_of(service).get("selector") or {}
        terms = [(namespace_of(service), *pair) for pair in selector.items()]
        fewest = min(terms, key=self._pods_by_label.count)
        return [pod for pod in self._pods_by_label.get(fewest) if matches_labels(pod, selector)]

    def _began(self, keys: Iterable[ObjectKey], when: datetime) -> list[ObjectKey]:
        concerned = list(keys)
        for key in concerned:
            self._triggers[key] = min(when, self._triggers.get(key, when))
        return concerned

    def _of_service(self, change: Change) -> list[ObjectKey]:
        if change.new is None:
            self._memories.pop(change.key, None)
        return self._began([change.key], self.kit.now())

    def _of_pod(self, change: Change) -> list[ObjectKey]:
        before, after = change.old, change.new
        if before is not None and after is not None and _visible(before) == _visible(after):
            return []
        keys = [key for pod in (before, after) if pod is not None for key in self._services_of(pod)]
        return self._began(dict.fromkeys(keys), _change_began(change, self.kit.now()))

    def _services_of(self, pod: Object) -> list[ObjectKey]:
        return [
            key_of(service)
            for pair in labels_of(pod).items()
            for service in self._selecting.get((namespace_of(pod), *pair))
            if matches_labels(pod, spec_of(service).get("selector") or {})
        ]

    def _of_node(self, change: Change) -> list[ObjectKey]:
        zones = [labels_of(node).get(ZONE) if node is not None else None for node in (change.old, change.new)]
        if zones[0] == zones[1]:
            return []
        pods = self._pods_on.get(change.key.name)
        return list(dict.fromkeys(key for pod in pods for key in self._services_of(pod)))

    def _of_output(self, change: Change) -> list[ObjectKey]:
        return list(itself(change))


class EndpointSliceController(ServiceController):
    """Keeps the slices that carry our ``managed-by`` label."""

    name = "endpointslice"
    component = "endpoint-slice-controller"
    output = ENDPOINTSLICES

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._slices_of = kit.caches.index(ENDPOINTSLICES, "service", _slice_terms)

    def decide(self, key: ObjectKey) -> Decision:
        """Slices of a Service that is gone go with it; slices of one without a selector are not ours."""
        existing = self._slices_of.get(key)
        service = self.caches[SERVICES].get(*key)
        if service is None or is_deleting(service):
            return Decision([Delete(ENDPOINTSLICES, key_of(s), uid_of(s)) for s in existing])
        if not has_endpoints(service):
            return Decision()
        wanted = self.wanted(service)
        return Decision(reconcile_slices(service, wanted, existing, self.trigger(key), self.kit.suffix))

    def _of_output(self, change: Change) -> list[ObjectKey]:
        found = [term for obj in (change.old, change.new) if obj is not None for term in _slice_terms(obj)]
        return list(dict.fromkeys(found))


class EndpointsController(ServiceController):
    """Keeps the Endpoints object of the same name.

    It is written whole however little changed, so at most once in MIRROR_SECONDS for a Service.
    """

    name = "endpoints"
    component = "endpoint-controller"
    output = ENDPOINTS

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._looked: dict[ObjectKey, float] = {}

    async def reconcile(self, key: ObjectKey) -> float | None:
        """As every controller, but not too soon after the last time."""
        wait = self._looked.get(key, float("-inf")) + MIRROR_SECONDS - self.kit.monotonic()
        if wait > 0:
            return wait
        if self.caches[SERVICES].get(*key) is None:
            self._looked.pop(key, None)
        else:
            self._looked[key] = self.kit.monotonic()
        return await super().reconcile(key)

    def decide(self, key: ObjectKey) -> Decision:
        """As for slices; an Endpoints object that a person made for a Service without selector stays."""
        existing = self.caches[ENDPOINTS].get(*key)
        service = self.caches[SERVICES].get(*key)
        if service is None or is_deleting(service):
            if existing is None or not meta(existing).get("ownerReferences"):
                return Decision()
            return Decision([Delete(ENDPOINTS, key, uid_of(existing))])
        if not has_endpoints(service):
            return Decision()
        return Decision(reconcile_mirror(service, self.wanted(service), existing, self.trigger(key)))


def _label_terms(pod: Object) -> list[tuple[str, str, str]]:
    return [(namespace_of(pod), key, value) for key, value in labels_of(pod).items()]


def _selector_terms(service: Object) -> list[tuple[str, str, str]]:
    """One pair is enough to find a Service from a pod; the rest of the selector is checked then."""
    selector = spec_of(service).get("selector") or {}
    return [(namespace_of(service), *min(selector.items()))] if selector else []


def _slice_terms(existing: Object) -> list[ObjectKey]:
    labels = labels_of(existing)
    if labels.get(MANAGED_BY) != OUR_NAME or SERVICE_NAME not in labels:
        return []
    return [ObjectKey(namespace_of(existing), labels[SERVICE_NAME])]


def _visible(pod: Object) -> tuple[object, ...]:
    """All of a pod that can be seen in an endpoint; its spec's ports never change."""
    return (
        uid_of(pod),
        labels_of(pod),
        addresses_of(pod),
        is_ready(pod),
        is_deleting(pod),
        is_terminal(pod),
        node_of(pod),
        spec_of(pod).get("hostname"),
    )


def _change_began(change: Change, heard: datetime) -> datetime:
    """When the change happened, as exactly as can be known.

    A condition's time is cut to whole seconds, so what we heard within that second counts as heard; only what is
    older (we were away) counts from the condition's time.
    """
    ready = condition(change.object, "Ready")
    if change.new is None or is_deleting(change.new) or ready is None:
        return heard
    try:
        return min(heard, parse_time(str(ready.get("lastTransitionTime"))) + SECOND)
    except ValueError:
        return heard
