"""Reading and writing API objects as the JSON they are.

Objects stay plain dictionaries: every field a client sent survives, also those netplane has never heard of.
Accessors here tolerate what may be absent; they never invent a value.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

Object = dict[str, Any]


class ObjectKey(NamedTuple):
    """An object's identity within its resource; ``namespace`` is "" for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def meta(obj: Object) -> dict[str, Any]:
    """``metadata``, or an empty mapping where it is absent."""
    return obj.get("metadata") or {}


def name_of(obj: Object) -> str:
    """``metadata.name``, "" when absent."""
    return str(meta(obj).get("name") or "")


def namespace_of(obj: Object) -> str:
    """``metadata.namespace``, "" for cluster-scoped objects."""
    return str(meta(obj).get("namespace") or "")


def key_of(obj: Object) -> ObjectKey:
    """Namespace and name together."""
    return ObjectKey(namespace_of(obj), name_of(obj))


def uid_of(obj: Object) -> str:
    """``metadata.uid``, "" when absent."""
    return str(meta(obj).get("uid") or "")


def labels_of(obj: Object) -> dict[str, str]:
    """``metadata.labels``, empty when absent."""
    return meta(obj).get("labels") or {}


def annotations_of(obj: Object) -> dict[str, str]:
    """``metadata.annotations``, empty when absent."""
    return meta(obj).get("annotations") or {}


def resource_version_of(obj: Object) -> str:
    """``metadata.resourceVersion``: opaque, only ever compared for equality by clients."""
    return str(meta(obj).get("resourceVersion") or "")


def is_deleting(obj: Object) -> bool:
    """Whether the object has a deletion timestamp."""
    return meta(obj).get("deletionTimestamp") is not None


def owner_of(obj: Object) -> dict[str, Any] | None:
    """The owner reference with ``controller: true``, if any."""
    owners = meta(obj).get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def condition(obj: Object, kind: str) -> dict[str, Any] | None:
    """The entry of ``status.conditions`` with this type."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), None)


def is_true(obj: Object, kind: str) -> bool:
    """Whether a condition of this type is present with status "True"."""
    found = condition(obj, kind)
    return found is not None and found.get("status") == "True"


def set_condition(
    conditions: list[dict[str, Any]], kind: str, status: str, reason: str, message: str, now: str
) -> list[dict[str, Any]]:
    """A new list in which the condition says this; ``lastTransitionTime`` moves only when the status does."""
    old = next((c for c in conditions if c.get("type") == kind), None)
    moved = old is None or old.get("status") != status
    new: dict[str, Any] = {
        "type": kind,
        "status": status,
        "lastTransitionTime": now if moved or old is None else old.get("lastTransitionTime", now),
    }
    if reason:
        new["reason"] = reason
    if message:
        new["message"] = message
    if old is None:
        return [*conditions, new]
    return [{**c, **new} if c.get("type") == kind else c for c in conditions]


def rfc3339(moment: datetime) -> str:
    """A ``metav1.Time``: UTC, whole seconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(moment: datetime) -> str:
    """A ``metav1.MicroTime`` as Leases and Events use it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Read either form back. Raises ValueError on anything else."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def now_rfc3339() -> str:
    """The wall clock as a ``metav1.Time``."""
    return rfc3339(datetime.now(UTC))


def new_uid() -> str:
    """A fresh ``metadata.uid``."""
    return str(uuid4())
