"""A resource's objects as last heard from the API: list + watch without the I/O.

The law: after any sequence of ``replace`` and ``apply``, the changes handed out, applied in order to an empty
mapping, give exactly ``objects``. Nothing here reads a clock or a socket.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from netplane.kube.objects import Object, ObjectKey, key_of, resource_version_of
from netplane.kube.resources import Resource


class ChangeKind(StrEnum):
    """What happened to an object, in the API's watch words."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


ADDED, MODIFIED, DELETED = ChangeKind.ADDED, ChangeKind.MODIFIED, ChangeKind.DELETED


@dataclass(frozen=True, slots=True)
class Change:
    """One object's transition; ``old`` is None when added, ``new`` is None when deleted."""

    kind: ChangeKind
    old: Object | None
    new: Object | None

    @property
    def object(self) -> Object:
        """The newest state known of the object."""
        found = self.new if self.new is not None else self.old
        assert found is not None
        return found

    @property
    def key(self) -> ObjectKey:
        """Which object changed."""
        return key_of(self.object)


class Cache:
    """The objects of one resource. Owned by one event loop; readers on it see whole updates only."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.resource_version = ""
        self.synced = False
        self.last_contact = 0.0  # monotonic seconds; written by whoever feeds the cache
        self._objects: dict[ObjectKey, Object] = {}

    @property
    def objects(self) -> Mapping[ObjectKey, Object]:
        """All objects by key, as they stand now."""
        return self._objects

    def get(self, namespace: str, name: str) -> Object | None:
        """One object, or None; ``namespace`` is "" for cluster-scoped kinds."""
        return self._objects.get(ObjectKey(namespace, name))

    def values(self) -> Iterator[Object]:
        """All objects, in no particular order."""
        return iter(self._objects.values())

    def __len__(self) -> int:
        return len(self._objects)

    def replace(self, items: Iterable[Object], resource_version: str) -> list[Change]:
        """Take a list's answer as the whole truth; the differences to what was known come back."""
        fresh = {key_of(item): item for item in items}
        changes = [Change(DELETED, old, None) for key, old in self._objects.items() if key not in fresh]
        for key, new in fresh.items():
            old = self._objects.get(key)
            if old is None:
                changes.append(Change(ADDED, None, new))
            elif resource_version_of(old) != resource_version_of(new):
                changes.append(Change(MODIFIED, old, new))
        self._objects = fresh
        self.resource_version = resource_version
        self.synced = True
        return changes

    def apply(self, event: Mapping[str, Any]) -> Change | None:
        """Take one watch event; None where it changed nothing (a bookmark, a repeat)."""
        kind, obj = event["type"], event["object"]
        self.resource_version = resource_version_of(obj) or self.resource_version
        if kind == "BOOKMARK":
            return None
        key = key_of(obj)
        old = self._objects.get(key)
        if kind == "DELETED":
            if old is None:
                return None
            del self._objects[key]
            return Change(DELETED, obj, None)
        if kind not in ("ADDED", "MODIFIED"):
            raise ValueError(f"unknown watch event type {kind!r}")
        self._objects[key] = obj
        if old is None:
            return Change(ADDED, None, obj)
        if resource_version_of(old) == resource_version_of(obj):
            return None
        return Change(MODIFIED, old, obj)
