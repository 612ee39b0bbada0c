"""Strategic merge patch: like a merge patch, but lists of objects merge by a key. Pure.

The keys come from the ``patchMergeKey`` and ``patchStrategy`` tags of Kubernetes' Go types, written down here for
the kinds we serve; a list that is not named is replaced, as there.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from netplane.kube.errors import bad_request

DIRECTIVE, RETAIN_KEYS = "$patch", "$retainKeys"
DELETE_PREFIX, ORDER_PREFIX = "$deleteFromPrimitiveList/", "$setElementOrder/"

# By the list's own name, and where one name means two lists, by the name of the object that holds it.
MERGE_KEYS: Mapping[str, str] = {
    "conditions": "type",
    "containers": "name",
    "devices": "containerPath",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "hostIPs": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "podIPs": "ip",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
HELD_MERGE_KEYS: Mapping[tuple[str, str], str] = {
    ("containers", "ports"): "containerPort",
    ("initContainers", "ports"): "containerPort",
    ("ephemeralContainers", "ports"): "containerPort",
    ("spec", "ports"): "port",
    ("status", "addresses"): "type",
}
MERGED_SETS = frozenset({("metadata", "finalizers"), ("spec", "podCIDRs")})

_ABSENT = object()


def merge_key(holder: str, name: str) -> str | None:
    """The key by which the objects of a list merge; None for a list that is replaced."""
    return HELD_MERGE_KEYS.get((holder, name)) or MERGE_KEYS.get(name)


def strategic_merge(target: Any, patch: Mapping[str, Any], holder: str = "") -> Any:
    """The merged object. ``holder`` is the name of the field it stands in. Raises StatusError 400."""
    match patch.get(DIRECTIVE):
        case None:
            pass
        case "replace":
            return {key: value for key, value in patch.items() if key != DIRECTIVE}
        case "delete":
            return {}
        case "merge":
            pass
        case other:
            raise bad_request(f"cannot apply the patch: {DIRECTIVE}: unknown directive {other!r}")
    result = dict(target) if isinstance(target, dict) else {}
    if RETAIN_KEYS in patch:
        retained = _list(patch, RETAIN_KEYS)
        result = {key: value for key, value in result.items() if key in retained}
    for key in patch:
        if key.startswith(DELETE_PREFIX):
            name = key.removeprefix(DELETE_PREFIX)
            gone = _list(patch, key)
            if isinstance(result.get(name), list):
                result[name] = [item for item in result[name] if item not in gone]
    for key, value in patch.items():
        if not key.startswith("$"):
            _merge_field(result, key, value, holder)
    _order_fields(result, patch, holder)
    return result


def _merge_field(result: dict[str, Any], key: str, value: Any, holder: str) -> None:
    if value is None:
        result.pop(key, None)
    elif isinstance(value, dict):
        result[key] = strategic_merge(result.get(key), value, key)
    elif isinstance(value, list):
        result[key] = _merge_list(result.get(key), value, holder, key)
    else:
        result[key] = value


def _merge_list(target: Any, patch: list[Any], holder: str, name: str) -> list[Any]:
    have = target if isinstance(target, list) else []
    if (holder, name) in MERGED_SETS:
        return [*have, *(item for item in patch if item not in have)]
    by = merge_key(holder, name)
    if by is None:
        return patch
    if any(isinstance(item, dict) and item.get(DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and DIRECTIVE in item)]
    result = [item for item in have if isinstance(item, dict)]
    for item in patch:
        if not isinstance(item, dict) or by not in item:
            raise bad_request(
                f"cannot apply the patch: an element of {name} has no {by}, the key it merges by"
            )
        at = next((i for i, old in enumerate(result) if old.get(by) == item[by]), None)
        if item.get(DIRECTIVE) == "delete":
            result = [old for old in result if old.get(by) != item[by]]
        elif at is None:
            result.append(strategic_merge({}, item, name))
        else:
            result[at] = strategic_merge(result[at], item, name)
    return result


def _order_fields(result: dict[str, Any], patch: Mapping[str, Any], holder: str) -> None:
    """``$setElementOrder/x``: the elements named stand in that order; the others keep their neighbours."""
    for key in patch:
        if not key.startswith(ORDER_PREFIX):
            continue
        name = key.removeprefix(ORDER_PREFIX)
        items = result.get(name)
        if isinstance(items, list):
            by = merge_key(holder, name)
            wanted = [_identity(item, by) for item in _list(patch, key)]
            result[name] = _ordered(items, wanted, by)


def _ordered(items: list[Any], wanted: list[Any], by: str | None) -> list[Any]:
    """Fill the places of the named elements, in their order, with the named elements in the wanted order."""
    named = [item for item in items if _identity(item, by) in wanted]
    named.sort(key=lambda item: wanted.index(_identity(item, by)))
    others = [(i, item) for i, item in enumerate(items) if _identity(item, by) not in wanted]
    result = list(named)
    for place, item in others:
        result.insert(min(place, len(result)), item)
    return result


def _identity(item: Any, by: str | None) -> Any:
    return item.get(by, _ABSENT) if by and isinstance(item, dict) else item


def _list(patch: Mapping[str, Any], key: str) -> Iterable[Any]:
    value = patch[key]
    if not isinstance(value, list):
        raise bad_request(f"cannot apply the patch: {key} must be a list")
    return value
