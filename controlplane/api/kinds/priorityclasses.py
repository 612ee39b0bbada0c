"""PriorityClass: a name for a number by which pods come before others.

Source: Kubernetes `pkg/apis/scheduling/{v1/defaults.go,validation/validation.go,helpers.go}`.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.api.kinds import causes
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import defaulting, validating
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, name_of
from netplane.kube.resources import PRIORITYCLASSES

PRIORITYCLASS = shape_of(PRIORITYCLASSES)

PREEMPTS = "PreemptLowerPriority"
POLICIES = ("Never", PREEMPTS)
HIGHEST = 1_000_000_000
"""Of those that a person may define."""
SYSTEM_PREFIX = "system-"
SYSTEM: Mapping[str, tuple[int, str]] = {
    "system-cluster-critical": (
        2 * HIGHEST,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    "system-node-critical": (
        2 * HIGHEST + 1000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
}
"""The two classes every cluster has: value and description."""


def system_class(name: str) -> Object:
    """One of the two as it is published."""
    value, description = SYSTEM[name]
    return {
        "apiVersion": PRIORITYCLASSES.api_version,
        "kind": PRIORITYCLASSES.kind,
        "metadata": {"name": name},
        "value": value,
        "description": description,
        "preemptionPolicy": PREEMPTS,
    }


def _default(priority_class: Object) -> None:
    priority_class.setdefault("value", 0)
    if not priority_class.get("preemptionPolicy"):
        priority_class["preemptionPolicy"] = PREEMPTS


def _causes(new: Object, old: Object | None) -> list[Cause]:
    name, value, policy = name_of(new), new.get("value") or 0, new.get("preemptionPolicy") or ""
    found = []
    if name.startswith(SYSTEM_PREFIX):
        if name not in SYSTEM or value != SYSTEM[name][0] or new.get("globalDefault"):
            detail = f"priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only"
            found.append(causes.forbidden("metadata.name", detail))
    elif value > HIGHEST:
        detail = f"maximum allowed value of a user defined priority is {HIGHEST}"
        found.append(causes.forbidden("value", detail))
    if policy not in POLICIES:
        found.append(causes.not_supported("preemptionPolicy", policy, POLICIES))
    if old is not None:
        if value != (old.get("value") or 0):
            found.append(causes.forbidden("value", "may not be changed in an update."))
        if policy != old.get("preemptionPolicy"):
            found.append(causes.invalid("preemptionPolicy", policy, causes.IMMUTABLE))
    return found


def _fields(priority_class: Object) -> Mapping[str, str]:
    return {"metadata.name": name_of(priority_class)}


KIND = Kind(
    resource=PRIORITYCLASSES,
    default=defaulting(PRIORITYCLASS, _default),
    validate=validating(PRIORITYCLASSES, PRIORITYCLASS, _causes),
    columns=(
        NAME,
        Column("Value", "integer", lambda obj: obj.get("value") or 0),
        Column("Global-Default", "boolean", lambda obj: bool(obj.get("globalDefault"))),
        AGE,
        Column("PreemptionPolicy", "string", lambda obj: obj.get("preemptionPolicy") or ""),
    ),
    fields=_fields,
)
