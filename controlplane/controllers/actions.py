"""What a controller may want done. Decisions return these values; only the doer turns them into requests."""

from dataclasses import dataclass
from typing import Any

from netplane.kube.objects import Object, ObjectKey, key_of, resource_version_of
from netplane.kube.resources import Resource


@dataclass(frozen=True, slots=True)
class Create:
    """POST an object whose name is already chosen, so that a lost answer can be asked about."""

    resource: Resource
    object: Object


@dataclass(frozen=True, slots=True)
class Replace:
    """PUT an object; its resourceVersion must still be current."""

    resource: Resource
    object: Object
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """PATCH an object; a ``metadata.resourceVersion`` in the body must still be current."""

    resource: Resource
    key: ObjectKey
    body: Any
    subresource: str = ""
    kind: str = "merge"


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE this very object; one already gone, or replaced by another of its name, is success."""

    resource: Resource
    key: ObjectKey
    uid: str
    grace_seconds: int | None = None
    propagation: str | None = None


@dataclass(frozen=True, slots=True)
class Owner:
    """The object that an adoption is for."""

    resource: Resource
    key: ObjectKey
    uid: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Apply ``patch`` only if the API itself says that ``owner`` lives: a cache may not know of its deletion,
    and what is adopted by a dead owner is garbage.
    """

    owner: Owner
    patch: Patch


@dataclass(frozen=True, slots=True)
class Bind:
    """Assign a pod to a node."""

    key: ObjectKey
    uid: str
    node: str


@dataclass(frozen=True, slots=True)
class Record:
    """Tell people: an Event about an object. ``kind`` is Normal or Warning."""

    about: Object
    kind: str
    reason: str
    message: str


Action = Create | Replace | Patch | Delete | Adopt | Bind | Record


def status_patch(resource: Resource, obj: Object, status: Object) -> Patch:
    """Write these status fields, if the object is still as we saw it."""
    body = {"metadata": {"resourceVersion": resource_version_of(obj)}, "status": status}
    return Patch(resource, key_of(obj), body, subresource="status")


def metadata_patch(resource: Resource, obj: Object, metadata: Object, **more: Any) -> Patch:
    """Write these metadata fields, if the object is still as we saw it."""
    body = {"metadata": {**metadata, "resourceVersion": resource_version_of(obj)}, **more}
    return Patch(resource, key_of(obj), body)
