"""The rules of ownership: what an update claims, what an apply claims, conflicts, what omission removes. Pure.

Source: "Server-Side Apply" of the Kubernetes documentation; ``structured-merge-diff/v4/merge/update.go`` and
``apimachinery/pkg/util/managedfields/internal``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.api.kinds.shapes import Shape
from controlplane.api.ownership import fields
from controlplane.api.ownership.fields import FieldSet, Path
from controlplane.api.ownership.values import compare, merge, remove, set_of
from netplane.kube.errors import StatusError
from netplane.kube.objects import Object

APPLY, UPDATE = "Apply", "Update"
BEFORE_FIRST_APPLY, ANCIENT_CHANGES = "before-first-apply", "ancient-changes"
MOST_UPDATES = 10  # entries of managers that update; older ones become one entry
_METADATA = (
    "name namespace creationTimestamp selfLink uid clusterName generation managedFields resourceVersion"
)
# Nobody owns an object's identity.
UNOWNED: FieldSet = frozenset(
    [
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(("f:metadata", f"f:{name}") for name in _METADATA.split()),
    ]
)


@dataclass(frozen=True, slots=True, order=True)
class Manager:
    """Who writes, and by which door."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""

    def described(self, time: str) -> str:
        """As conflicts name it."""
        found = f'"{self.name}"'
        if self.subresource:
            found += f' with subresource "{self.subresource}"'
        if self.operation == UPDATE:
            found += f" using {self.api_version}" + (f" at {time}" if time else "")
        return found


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields that a manager owns, and since when it owns just these."""

    owned: FieldSet
    time: str = ""


Managers = Mapping[Manager, Entry]


def decode(entries: Any) -> Managers:
    """``metadata.managedFields``. Raises ValueError."""
    if not isinstance(entries, list):
        raise ValueError("managedFields: a list belongs here")
    found: dict[Manager, Entry] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("operation") not in (APPLY, UPDATE):
            raise ValueError("managedFields: operation must be Apply or Update")
        words = [
            entry.get(name) or "" for name in ("manager", "operation", "apiVersion", "subresource", "time")
        ]
        if not all(isinstance(word, str) for word in words):
            raise ValueError("managedFields: manager, apiVersion, subresource and time are strings")
        name, operation, version, subresource, time = words
        owned = fields.decode(entry.get("fieldsV1") or {})
        found[Manager(name, operation, version, subresource)] = Entry(owned, time)
    return found


def encode(managers: Managers) -> list[dict[str, Any]]:
    """``metadata.managedFields``, appliers first, the older first."""
    found = []
    for manager, entry in sorted(managers.items(), key=_order):
        body: dict[str, Any] = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields.encode(entry.owned),
            "subresource": manager.subresource,
        }
        found.append({name: value for name, value in body.items() if value != ""})
    return found


def _order(item: tuple[Manager, Entry]) -> tuple[str, str, str, str]:
    manager, entry = item
    return manager.operation, entry.time, manager.name, manager.subresource


def updated(shape: Shape, old: Any, new: Any, managers: Managers, me: Manager, now: str) -> Managers:
    """The owners after ``me`` wrote ``new`` over ``old``: what it changed is its own."""
    difference = compare(shape, old, new)
    written = difference.written - UNOWNED
    result = _taken(managers, me, written | difference.removed)
    before = managers.get(me, Entry(fields.NOTHING))
    _put(result, me, (before.owned - difference.removed) | written, before, now)
    return _capped(result)


def _taken(managers: Managers, me: Manager, lost: FieldSet) -> dict[Manager, Entry]:
    """The other managers without the fields they lose; their times stay, as it was not they who wrote."""
    result = {}
    for manager, entry in managers.items():
        owned = entry.owned if manager == me or not lost else entry.owned - lost
        if owned:
            result[manager] = entry if owned == entry.owned else Entry(owned, entry.time)
    return result


def _put(result: dict[Manager, Entry], me: Manager, owned: FieldSet, before: Entry, now: str) -> None:
    if owned:
        result[me] = before if owned == before.owned else Entry(owned, now)
    else:
        result.pop(me, None)


def _capped(managers: dict[Manager, Entry]) -> Managers:
    """The oldest updates as one entry a version, so that the list does not grow for ever."""
    updates = sorted(
        (entry.time, manager.name, manager) for manager, entry in managers.items() if _is_update(manager)
    )
    surplus = len(updates) - MOST_UPDATES
    if surplus <= 0:
        return managers
    result = dict(managers)
    for time, _, manager in updates[: surplus + 1]:
        ancient = Manager(ANCIENT_CHANGES, UPDATE, manager.api_version)
        known = result.get(ancient, Entry(fields.NOTHING))
        result[ancient] = Entry(known.owned | result.pop(manager).owned, max(known.time, time))
    return result


def _is_update(manager: Manager) -> bool:
    return manager.operation == UPDATE and manager.name != ANCIENT_CHANGES


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply comes to."""

    obj: Object
    managers: Managers


def apply(
    shape: Shape,
    live: Object | None,
    config: Object,
    managers: Managers,
    me: Manager,
    *,
    force: bool,
    now: str,
    foreign: tuple[Path, ...] = (),
    free: FieldSet = fields.NOTHING,
) -> Applied:
    """Make ``config`` so. ``live`` None: create. ``foreign`` are fields that this door does not write, ``free``
    those that may be taken without force.

    Raises StatusError 409 with a cause for each field that somebody else has set to another value, unless
    ``force``.
    """
    wanted = set_of(shape, config) - UNOWNED
    for prefix in foreign:
        wanted -= fields.below(wanted, prefix)
    before = managers.get(me, Entry(fields.NOTHING))
    if live is None:
        return Applied(config, {me: Entry(wanted, now)} if wanted else {})
    if not managers:
        known = Manager(BEFORE_FIRST_APPLY, UPDATE, me.api_version)
        managers = {known: Entry(set_of(shape, live) - UNOWNED, now)}
    others = {manager: entry for manager, entry in managers.items() if manager != me}
    merged = merge(shape, live, config)
    merged = remove(shape, merged, _orphaned(before.owned - wanted, wanted, others))
    difference = compare(shape, live, merged)
    conflicts = {m: e.owned & difference.written for m, e in others.items() if e.owned & difference.written}
    for prefix in foreign:
        conflicts = {m: lost - fields.below(lost, prefix) for m, lost in conflicts.items()}
    conflicts = {manager: lost - free for manager, lost in conflicts.items() if lost - free}
    if conflicts and not force:
        raise conflict(conflicts, managers)
    result = _taken(managers, me, difference.written | difference.removed)
    _put(result, me, wanted, before, now)
    return Applied(merged, result)


def _orphaned(dropped: FieldSet, wanted: FieldSet, others: Managers) -> FieldSet:
    """Of the fields that an applier no longer names, those that nobody has, nor anything in them."""
    owned = wanted.union(*(entry.owned for entry in others.values()))
    held = {path[:length] for path in owned for length in range(1, len(path) + 1)}
    return dropped - held


def conflict(conflicts: Mapping[Manager, FieldSet], managers: Managers) -> StatusError:
    """409, with kube-apiserver's texts."""
    found = sorted(
        (manager.described(managers[manager].time), fields.text(path))
        for manager, lost in conflicts.items()
        for path in lost
    )
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": field}
        for who, field in found
    ]
    if len(found) == 1:
        listed = f"1 conflict: conflict with {found[0][0]}: {found[0][1]}"
    else:
        lines = []
        for who in dict.fromkeys(who for who, _ in found):
            lines += [f"conflicts with {who}:", *(f"- {field}" for name, field in found if name == who)]
        listed = f"{len(found)} conflicts: " + "\n".join(lines)
    return StatusError(409, "Conflict", f"Apply failed with {listed}", {"causes": causes})
