"""What we wrote but our caches may not show yet: the guard against doing everything twice.

A controller that decides again before its own writes have come back through the watch would create a second
set of pods. So each controller notes its writes by the object it was working for, and does not look at that
object again until the caches have caught up. Nothing here does I/O or reads a clock.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.kube.cache import Cache
from netplane.kube.objects import ObjectKey, is_deleting, resource_version_of, uid_of
from netplane.kube.resources import Resource


def revision(resource_version: str) -> int | None:
    """A resourceVersion as a number, None where it is not one.

    Comparing them is allowed by the API since KEP-5504 (comparable resource versions); for a server whose
    versions are no numbers we know nothing, and do not wait.
    """
    return int(resource_version) if resource_version.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Written:
    """An object was created or changed at this revision."""

    resource: Resource
    key: ObjectKey
    revision: int

    def shown(self, cache: Cache) -> bool:
        """Whether the cache is at least as new as the write."""
        found = cache.objects.get(self.key)
        seen = resource_version_of(found) if found is not None else cache.resource_version
        number = revision(seen or cache.resource_version)
        return number is not None and number >= self.revision


@dataclass(frozen=True, slots=True)
class Removed:
    """The deletion of this very object was accepted."""

    resource: Resource
    key: ObjectKey
    uid: str

    def shown(self, cache: Cache) -> bool:
        """Whether the object is gone, replaced by another of its name, or at least being deleted."""
        found = cache.objects.get(self.key)
        return found is None or uid_of(found) != self.uid or is_deleting(found)


@dataclass(frozen=True, slots=True)
class Lost:
    """A write whose answer never came: it may or may not have happened. Only the API can tell."""

    resource: Resource
    key: ObjectKey

    def shown(self, _cache: Cache) -> bool:
        """Never: what a cache shows may be from before the write."""
        return False


Write = Written | Removed | Lost


@dataclass(slots=True)
class PendingWrites:
    """Writes not yet seen, by the object that caused them."""

    _pending: dict[ObjectKey, set[Write]] = field(default_factory=lambda: defaultdict(set))

    def note(self, cause: ObjectKey, write: Write) -> None:
        """Remember a write made for ``cause``."""
        self._pending[cause].add(write)

    def settle(self, cause: ObjectKey, lost: Lost) -> None:
        """The API was asked: what it has now is noted as Written instead."""
        self._pending[cause].discard(lost)

    def lost(self, cause: ObjectKey) -> list[Lost]:
        """Writes for ``cause`` that the API must be asked about."""
        return [write for write in self._pending.get(cause, ()) if isinstance(write, Lost)]

    def unseen(self, cause: ObjectKey, caches: Mapping[Resource, Cache]) -> int:
        """How many writes for ``cause`` the caches do not show yet."""
        if cause not in self._pending:
            return 0
        left = {
            write
            for write in self._pending[cause]
            if write.resource in caches and not write.shown(caches[write.resource])
        }
        if left:
            self._pending[cause] = left
        else:
            del self._pending[cause]
        return len(left)
