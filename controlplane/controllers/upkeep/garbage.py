"""Owner references: what belongs to something gone goes too.

Background: dependents are deleted after their owner is gone. Foreground (finalizer ``foregroundDeletion``): the
owner stays until its blocking dependents are gone. Orphan (finalizer ``orphan``): dependents lose the reference.
Source: Kubernetes ``pkg/controller/garbagecollector``. An owner that our cache lacks may simply be newer than the
cache: the API itself is asked before anything is deleted for it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from controlplane.controllers.actions import Action, Delete, Patch, metadata_patch
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper
from netplane.kube import errors
from netplane.kube.cache import Change
from netplane.kube.objects import (
    Object,
    ObjectKey,
    is_deleting,
    key_of,
    meta,
    namespace_of,
    uid_of,
)
from netplane.kube.resources import ALL, EVENTS, Resource, by_kind

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
# Events have no dependents and no owners, and there are many of them.
COLLECTED = tuple(resource for resource in ALL if resource != EVENTS)


@dataclass(frozen=True, slots=True)
class Dependent:
    """An object that names another as its owner."""

    resource: Resource
    object: Object
    blocks: bool
    has_dependents: bool


def references_of(obj: Object) -> list[dict[str, Any]]:
    """``metadata.ownerReferences``, empty when absent."""
    return list(meta(obj).get("ownerReferences") or [])


def finalizers_of(obj: Object) -> list[str]:
    """``metadata.finalizers``, empty when absent."""
    return list(meta(obj).get("finalizers") or [])


def finish_deletion(resource: Resource, owner: Object, dependents: Sequence[Dependent]) -> list[Action]:
    """The next step for an object that is being deleted in the foreground, or whose dependents are orphaned."""
    finalizers = finalizers_of(owner)
    if ORPHAN in finalizers:
        if dependents:
            return [_without_owners(d.resource, d.object, {uid_of(owner)}) for d in dependents]
        return [_without_finalizer(resource, owner, ORPHAN)]
    if FOREGROUND in finalizers:
        doomed = [d for d in dependents if not is_deleting(d.object)]
        if doomed:
            return [_delete(d) for d in doomed]
        if not any(d.blocks for d in dependents):
            return [_without_finalizer(resource, owner, FOREGROUND)]
    return []


def collect(resource: Resource, obj: Object, absent: set[str]) -> list[Action]:
    """What becomes of an object some of whose owners (by uid) are certainly gone."""
    owners = {str(reference.get("uid")) for reference in references_of(obj)}
    if not absent or is_deleting(obj):
        return []
    if owners <= absent:
        return [Delete(resource, key_of(obj), uid_of(obj), propagation="Background")]
    return [_without_owners(resource, obj, absent)]


def _delete(dependent: Dependent) -> Delete:
    propagation = "Foreground" if dependent.has_dependents else "Background"
    obj = dependent.object
    return Delete(dependent.resource, key_of(obj), uid_of(obj), propagation=propagation)


def _without_owners(resource: Resource, obj: Object, owners: set[str]) -> Patch:
    kept = [reference for reference in references_of(obj) if reference.get("uid") not in owners]
    return metadata_patch(resource, obj, {"ownerReferences": kept})


def _without_finalizer(resource: Resource, obj: Object, finalizer: str) -> Patch:
    kept = [f for f in finalizers_of(obj) if f != finalizer]
    return metadata_patch(resource, obj, {"finalizers": kept})


class GarbageController(Controller):
    """Collects the objects of one resource; there is one of these for each."""

    component = "garbage-collector"
    resources = COLLECTED
    workers = 2

    def __init__(self, resource: Resource, kit: Kit) -> None:
        self.resource = resource
        self.name = f"garbage {resource.plural}"
        self._dependents = {
            r: kit.caches.index(r, "owners", lambda o: [ref.get("uid") for ref in references_of(o)])
            for r in COLLECTED
        }
        super().__init__(kit)

    def watches(self) -> Mapping[Any, Mapper]:
        """Objects of this resource themselves, objects that went, and dependents of what is being deleted."""
        return {r: partial(self._concerned, r) for r in COLLECTED}

    def decide(self, key: ObjectKey) -> Decision:
        """For an object that is being deleted: let go of, or wait for, its dependents."""
        obj = self.caches[self.resource].get(*key)
        if obj is None or not is_deleting(obj):
            return Decision()
        return Decision(finish_deletion(self.resource, obj, list(self._dependents_of(uid_of(obj)))))

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Ask the API about owners that the cache lacks; collect what has none left."""
        await super().reconcile(key)
        obj = self.caches[self.resource].get(*key)
        if obj is not None:
            absent = {
                str(reference.get("uid"))
                for reference in references_of(obj)
                if await self._is_absent(namespace_of(obj), reference)
            }
            await self.doer.perform(key, collect(self.resource, obj, absent))
        return None

    async def _is_absent(self, namespace: str, reference: Mapping[str, Any]) -> bool:
        owner = by_kind(str(reference.get("apiVersion")), str(reference.get("kind")))
        if owner is None or (owner.namespaced and not namespace):
            return False  # a kind we do not serve: nobody can say that it is gone
        where = namespace if owner.namespaced else ""
        name, uid = str(reference.get("name")), str(reference.get("uid"))
        cached = self.caches[owner].get(where, name) if owner in self.caches.resources else None
        if cached is not None and uid_of(cached) == uid:
            return False
        try:
            return uid_of(await self.kit.client.get(owner, name, where or None)) != uid
        except errors.StatusError as error:
            if errors.is_not_found(error):
                return True
            raise

    def _dependents_of(self, uid: str) -> Iterable[Dependent]:
        for resource, index in self._dependents.items():
            for obj in index.get(uid):
                blocks = any(r.get("uid") == uid and r.get("blockOwnerDeletion") for r in references_of(obj))
                nested = any(i.count(uid_of(obj)) for i in self._dependents.values())
                yield Dependent(resource, obj, blocks, nested)

    def _concerned(self, resource: Resource, change: Change) -> list[ObjectKey]:
        keys: list[ObjectKey] = []
        if resource == self.resource and change.new is not None:
            fresh = change.old is None or references_of(change.old) != references_of(change.new)
            if is_deleting(change.new) or (fresh and references_of(change.new)):
                keys.append(change.key)
        if change.new is None:
            keys += [key_of(obj) for obj in self._dependents[self.resource].get(uid_of(change.object))]
        for reference in references_of(change.object):
            keys += self._deleting_owner(change.object, reference)
        return keys

    def _deleting_owner(self, obj: Object, reference: Mapping[str, Any]) -> list[ObjectKey]:
        if reference.get("kind") != self.resource.kind:
            return []
        key = ObjectKey(namespace_of(obj) if self.resource.namespaced else "", str(reference.get("name")))
        owner = self.caches[self.resource].objects.get(key)
        return [key] if owner is not None and is_deleting(owner) else []


def garbage_controllers() -> list[Callable[[Kit], Controller]]:
    """One collector for each resource that can own or be owned."""
    return [partial(GarbageController, resource) for resource in COLLECTED]
