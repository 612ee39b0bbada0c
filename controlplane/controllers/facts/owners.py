"""Who owns what: the one rule by which ReplicaSets hold pods and Deployments hold ReplicaSets.

Source: Kubernetes ``pkg/controller/controller_ref_manager.go``. What is ours and matches the selector is kept,
what is ours and does not is released, what is nobody's and matches is adopted.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from controlplane.controllers.actions import Action, Adopt, Owner, metadata_patch
from netplane.kube.cache import Change
from netplane.kube.objects import (
    Object,
    ObjectKey,
    is_deleting,
    key_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    owner_of,
    uid_of,
)
from netplane.kube.resources import Resource
from netplane.kube.selectors import Selector


@dataclass(frozen=True, slots=True)
class Claim:
    """What an owner holds now, and the patches that make its claims true."""

    held: tuple[Object, ...]
    actions: tuple[Action, ...]


def controller_ref(resource: Resource, owner: Object) -> dict[str, object]:
    """The owner reference of a controller that deletes wait for."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def selector_of(owner: Object) -> Selector | None:
    """``spec.selector`` of a workload; None where it is empty or cannot be read, and so selects nothing."""
    try:
        selector = Selector.from_label_selector((owner.get("spec") or {}).get("selector") or {})
    except ValueError:
        return None
    return None if selector.empty else selector


def claim(
    resource: Resource, owner: Object, child: Resource, selector: Selector, candidates: Iterable[Object]
) -> Claim:
    """Sort out the candidates of the owner's namespace."""
    held: list[Object] = []
    actions: list[Action] = []
    for candidate in candidates:
        holder = owner_of(candidate)
        matches = selector.matches(meta(candidate).get("labels") or {})
        if holder is not None and holder.get("uid") == uid_of(owner):
            if matches or is_deleting(owner):
                held.append(candidate)
            else:
                actions.append(_release(child, candidate, uid_of(owner)))
        elif holder is None and matches and not is_deleting(owner) and not is_deleting(candidate):
            actions.append(_adoption(resource, owner, child, candidate))
    return Claim(tuple(held), tuple(actions))


def _adoption(resource: Resource, owner: Object, child: Resource, candidate: Object) -> Adopt:
    references = [*(meta(candidate).get("ownerReferences") or []), controller_ref(resource, owner)]
    patch = metadata_patch(child, candidate, {"uid": uid_of(candidate), "ownerReferences": references})
    return Adopt(Owner(resource, key_of(owner), uid_of(owner)), patch)


def _release(child: Resource, candidate: Object, owner_uid: str) -> Action:
    references = [o for o in meta(candidate).get("ownerReferences") or [] if o.get("uid") != owner_uid]
    return metadata_patch(child, candidate, {"uid": uid_of(candidate), "ownerReferences": references})


def owned_by(obj: Object) -> tuple[str, ...]:
    """Index terms: the uid of the controlling owner."""
    holder = owner_of(obj)
    return (str(holder.get("uid")),) if holder is not None else ()


def orphaned_in(obj: Object) -> tuple[str, ...]:
    """Index terms: the namespace of an object that nobody controls."""
    return (namespace_of(obj),) if owner_of(obj) is None else ()


def concerned(
    change: Change, resource: Resource, owners_in: Callable[[str], Iterable[Object]]
) -> list[ObjectKey]:
    """Whom of this kind a pod's change concerns: its owner, or for a pod without one whoever might adopt it.

    ``owners_in`` gives the objects of the kind in a namespace.
    """
    keys = owner_key(change, resource)
    if keys or change.new is None or owner_of(change.new) is not None:
        return keys
    labels = labels_of(change.new)
    return [
        key_of(owner)
        for owner in owners_in(namespace_of(change.new))
        if (selector := selector_of(owner)) is not None and selector.matches(labels)
    ]


def owner_key(change: Change, resource: Resource) -> list[ObjectKey]:
    """The controlling owners of this kind, before and after a change."""
    keys = []
    for obj in (change.old, change.new):
        holder = owner_of(obj) if obj is not None else None
        if obj is not None and holder is not None and holder.get("kind") == resource.kind:
            keys.append(ObjectKey(namespace_of(obj), str(holder.get("name"))))
    return list(dict.fromkeys(keys))
