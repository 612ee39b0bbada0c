"""A namespace that is being deleted: empty it, then let it go.

What counts is what the API lists now, never a cache: something created a moment before the deletion must not
survive its namespace.
"""

from collections.abc import Mapping
from typing import Any

from controlplane.controllers.actions import Action, Delete, Replace
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.loop.frame import Controller, Decision, Mapper, itself
from netplane.kube import errors
from netplane.kube.cache import Change
from netplane.kube.objects import Object, ObjectKey, is_deleting, key_of, namespace_of, uid_of
from netplane.kube.resources import ALL, EVENTS, NAMESPACES, Resource

FINALIZER = "kubernetes"
CONTENTS = tuple(resource for resource in ALL if resource.namespaced)
LOOK_AGAIN = 5.0  # seconds; what is watched brings us back sooner
LOOK_AGAIN_FOR_EVENTS = 0.1  # Events are not watched here, and are gone as soon as they are deleted


def emptying(contents: Mapping[Resource, list[Object]]) -> list[Action]:
    """Delete what is not being deleted yet."""
    return [
        Delete(resource, key_of(obj), uid_of(obj), propagation="Background")
        for resource, objects in contents.items()
        for obj in objects
        if not is_deleting(obj)
    ]


def finalized(namespace: Object) -> Replace:
    """Take our finalizer off."""
    spec = spec_of(namespace)
    kept = [f for f in spec.get("finalizers") or [] if f != FINALIZER]
    return Replace(NAMESPACES, {**namespace, "spec": {**spec, "finalizers": kept}}, subresource="finalize")


class NamespaceController(Controller):
    """One key per Namespace that is being deleted."""

    name = "namespace"
    component = "namespace-controller"
    resources = (NAMESPACES, *(resource for resource in CONTENTS if resource != EVENTS))
    workers = 2

    def watches(self) -> Mapping[Any, Mapper]:
        """Namespaces, and objects that left one."""
        gone = {resource: self._of_gone for resource in self.resources if resource != NAMESPACES}
        return {NAMESPACES: itself, **gone}

    def decide(self, key: ObjectKey) -> Decision:
        """Nothing can be decided without the API's own list: see ``reconcile``."""
        return Decision()

    async def reconcile(self, key: ObjectKey) -> float | None:
        """List, delete, and finalize once the lists are empty."""
        namespace = self.caches[NAMESPACES].get(*key)
        if namespace is None or not is_deleting(namespace):
            return None
        if FINALIZER not in (spec_of(namespace).get("finalizers") or []):
            return None
        contents = {resource: await self._list(resource, key.name) for resource in CONTENTS}
        if any(contents.values()):
            await self.doer.perform(key, emptying(contents))
            return LOOK_AGAIN_FOR_EVENTS if self._left_only_events(contents) else LOOK_AGAIN
        try:
            await self.doer.perform(key, [finalized(namespace)])
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
        return None

    async def _list(self, resource: Resource, namespace: str) -> list[Object]:
        return (await self.kit.client.list(resource, namespace)).items

    @staticmethod
    def _left_only_events(contents: Mapping[Resource, list[Object]]) -> bool:
        """Whether nothing is left that would bring us back when it goes."""
        return not any(objects for resource, objects in contents.items() if resource != EVENTS)

    def _of_gone(self, change: Change) -> list[ObjectKey]:
        if change.new is not None:
            return []
        key = ObjectKey("", namespace_of(change.object))
        namespace = self.caches[NAMESPACES].objects.get(key)
        return [key] if namespace is not None and is_deleting(namespace) else []
