"""Ownership as writes use it: from an object's ``managedFields`` to those of the object that replaces it. Pure."""

from typing import Any

import orjson

from controlplane.api.kinds.shapes import Shape
from controlplane.api.ownership import managers
from controlplane.api.ownership.fields import NOTHING, FieldSet
from controlplane.api.ownership.managers import APPLY, Applied, Manager, Managers
from controlplane.api.ownership.values import compare, set_of
from netplane.kube.errors import bad_request
from netplane.kube.objects import Object, meta

FIELD = "managedFields"
KUBECTL = "kubectl"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_STATUS = "f:status"


def created(shape: Shape, obj: Object, me: Manager, now: str) -> list[dict[str, Any]]:
    """The ``managedFields`` of a new object: all that its creator said, and what was filled in for it."""
    spoken = {name: value for name, value in obj.items() if name != "status"}
    return managers.encode(managers.updated(shape, {}, spoken, _sent(obj) or {}, me, now))


def updated(shape: Shape, new: Object, old: Object, me: Manager, now: str, sent: Any) -> list[dict[str, Any]]:
    """The ``managedFields`` of ``new``. ``sent`` are those the writer gave: it may edit them, by the object's own door.

    An object that nobody is known to own stays so, until somebody applies to it.
    """
    stored: list[dict[str, Any]] = meta(old).get(FIELD) or []
    if sent in (None, stored) and _bare(old) == _bare(new):
        return stored
    known = _stored(old)
    if sent is not None and not me.subresource:
        if sent in ([], [{}]):
            return []
        known = _sent({"metadata": {FIELD: sent}}) or known
    if not known:
        return []
    return managers.encode(managers.updated(shape, _bare(old), _bare(new), known, me, now))


def applied(
    shape: Shape, live: Object | None, config: Object, me: Manager, now: str, *, force: bool, status: bool
) -> Applied:
    """What applying ``config`` comes to; ``status``: the kind has a door of its own for it. Raises StatusError 409."""
    foreign: tuple[tuple[str, ...], ...] = ((_STATUS,),) if status else ()
    if me.subresource == "status":
        foreign = tuple((f"f:{name}",) for name in config if name != "status")
    before = _stored(live) if live is not None else {}
    bare = _bare(live) if live is not None else None
    free = _last_applied(shape, bare) if bare is not None and me.name == KUBECTL else NOTHING
    found = managers.apply(shape, bare, config, before, me, force=force, now=now, foreign=foreign, free=free)
    if free and LAST_APPLIED in (meta(found.obj).get("annotations") or {}):
        # Kept true for a later client-side apply.
        found.obj["metadata"]["annotations"][LAST_APPLIED] = orjson.dumps(config).decode() + "\n"
    return found


def _last_applied(shape: Shape, live: Object) -> FieldSet:
    """What a client-side `kubectl apply` set and nobody has changed: the server-side one goes on from there."""
    try:
        last = orjson.loads((meta(live).get("annotations") or {}).get(LAST_APPLIED, ""))
    except orjson.JSONDecodeError:
        return NOTHING
    if not isinstance(last, dict):
        return NOTHING
    difference = compare(shape, last, live)
    return set_of(shape, last) - difference.written - difference.removed


def put(obj: Object, owners: list[dict[str, Any]]) -> None:
    """In place: the object with these ``managedFields``; none of them is no field."""
    obj["metadata"].pop(FIELD, None)
    if owners:
        obj["metadata"][FIELD] = owners


def applier(name: str, api_version: str, subresource: str) -> Manager:
    """The identity of somebody who applies."""
    return Manager(name, APPLY, api_version, subresource)


def _bare(obj: Object) -> Object:
    return {**obj, "metadata": {name: value for name, value in meta(obj).items() if name != FIELD}}


def _stored(obj: Object) -> Managers:
    return managers.decode(meta(obj).get(FIELD) or [])


def _sent(obj: Object) -> Managers | None:
    """What a client sent as ``managedFields``, None if that is nothing. Raises StatusError 400."""
    entries = meta(obj).get(FIELD)
    try:
        return managers.decode(entries) if entries else None
    except ValueError as error:
        raise bad_request(f"metadata.managedFields: {error}") from None
