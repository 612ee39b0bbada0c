"""Objects as the API server holds them in memory: read once, encoded once, never changed.

A record's object is shared by every reader and watcher. Whoever wants to change one takes a `copy`.
"""

from dataclasses import dataclass, field

import orjson

from controlplane.api.kinds.kind import Kind
from controlplane.api.memory.tables import cells, partial
from netplane.kube.objects import Object, meta
from netplane.kube.resources import Resource


def prefix_of(resource: Resource) -> str:
    """Where a resource's keys begin: ``/apps/deployments/``."""
    return f"/{resource.group or 'core'}/{resource.plural}/"


def key_for(resource: Resource, namespace: str, name: str) -> str:
    """An object's key in the store."""
    where = f"{namespace}/" if resource.namespaced else ""
    return f"{prefix_of(resource)}{where}{name}"


def stored(obj: Object) -> bytes:
    """An object's bytes in the store: the resourceVersion is the revision that wrote them, so it is left out."""
    metadata = {k: v for k, v in meta(obj).items() if k != "resourceVersion"}
    return orjson.dumps({**obj, "metadata": metadata})


@dataclass(slots=True)
class Record:
    """One object at one revision."""

    key: str
    revision: int
    obj: Object
    _json: bytes | None = field(default=None, repr=False)
    _cells: tuple[object, ...] | None = field(default=None, repr=False)
    _partials: dict[str, bytes] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, key: str, value: bytes, revision: int) -> "Record":
        """Decode what the store holds."""
        obj = orjson.loads(value)
        obj.setdefault("metadata", {})["resourceVersion"] = str(revision)
        return cls(key, revision, obj)

    @property
    def json(self) -> bytes:
        """The object as a client reads it; encoded at the first use."""
        if self._json is None:
            self._json = orjson.dumps(self.obj)
        return self._json

    def cells(self, kind: Kind) -> tuple[object, ...]:
        """What its row in a Table holds; computed at the first use."""
        if self._cells is None:
            self._cells = cells(kind, self.obj)
        return self._cells

    def partial(self, version: str) -> bytes:
        """Its metadata alone, for clients of this version of meta.k8s.io; encoded at the first use."""
        if self._partials is None:
            self._partials = {}
        if version not in self._partials:
            self._partials[version] = orjson.dumps(partial(self.obj, version))
        return self._partials[version]

    def copy(self) -> Object:
        """An object of one's own, to change."""
        copied: Object = orjson.loads(self.json)
        return copied

    def at(self, revision: int) -> "Record":
        """The same object as of a later revision: what a DELETED event carries."""
        metadata = {**meta(self.obj), "resourceVersion": str(revision)}
        return Record(self.key, revision, {**self.obj, "metadata": metadata})


@dataclass(frozen=True, slots=True)
class Transition:
    """One object's change as watchers see it; ``old`` None: created, ``new`` None: removed.

    ``frames`` keeps each encoding of it, so that a thousand watchers cost one encoding.
    """

    kind: Kind
    revision: int
    old: Record | None
    new: Record | None
    frames: dict[object, bytes] = field(default_factory=dict, compare=False)
