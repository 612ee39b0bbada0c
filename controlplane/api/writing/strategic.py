"""Strategic merge patch: like a merge patch, but lists of objects merge by a key. Pure.

Which lists merge, and by what, is in the published schema (the ``patchMergeKey`` and ``patchStrategy`` tags of
Kubernetes' Go types); a list that has no strategy is replaced, as there.
Source: ``apimachinery/pkg/util/strategicpatch``, "strategic-merge-patch.md" of the Kubernetes community.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controlplane.api.kinds.shapes import ANY, ListOf, MapOf, Shape, Struct
from netplane.kube.errors import bad_request

DIRECTIVE, RETAIN_KEYS = "$patch", "$retainKeys"
DELETE_PREFIX, ORDER_PREFIX = "$deleteFromPrimitiveList/", "$setElementOrder/"

_ABSENT = object()


def strategic_merge(target: Any, patch: Mapping[str, Any], shape: Shape = ANY) -> Any:
    """The merged object; ``shape`` is the target's. Raises StatusError 400."""
    match patch.get(DIRECTIVE):
        case None | "merge":
            pass
        case "replace":
            return {key: value for key, value in patch.items() if key != DIRECTIVE}
        case "delete":
            return {}
        case other:
            raise bad_request(f"Unknown patch type found: {other!r}")
    result = dict(target) if isinstance(target, dict) else {}
    if RETAIN_KEYS in patch:
        retained = _list(patch, RETAIN_KEYS)
        result = {key: value for key, value in result.items() if key in retained}
    for key in patch:
        if key.startswith(DELETE_PREFIX):
            _delete_elements(result, key.removeprefix(DELETE_PREFIX), _list(patch, key))
    for key, value in patch.items():
        if not key.startswith("$"):
            _merge_field(result, key, value, field_of(shape, key))
    for key in patch:
        if key.startswith(ORDER_PREFIX):
            name = key.removeprefix(ORDER_PREFIX)
            before = target.get(name) if isinstance(target, dict) else None
            _order(result, name, _list(patch, key), before, patch.get(name), field_of(shape, name))
    return result


def field_of(shape: Shape, name: str) -> Shape:
    """The shape of a field of an object, ANY where none is known."""
    match shape:
        case Struct(fields):
            return fields.get(name, ANY)
        case MapOf(value):
            return value
    return ANY


def _merge_field(result: dict[str, Any], key: str, value: Any, shape: Shape) -> None:
    if value is None:
        result.pop(key, None)
    elif isinstance(value, dict):
        if value.get(DIRECTIVE) == "delete":
            result.pop(key, None)
        else:
            result[key] = strategic_merge(result.get(key), value, shape)
    elif isinstance(value, list):
        result[key] = _merge_list(result.get(key), value, shape, key)
    else:
        result[key] = value


def _merge_list(target: Any, patch: list[Any], shape: Shape, name: str) -> list[Any]:
    have = target if isinstance(target, list) else []
    if not isinstance(shape, ListOf) or not shape.merges:
        return [strategic_merge({}, item, ANY) if isinstance(item, dict) else item for item in patch]
    if not shape.merge_key:
        return [*have, *(item for item in dict.fromkeys(_hashable(patch, name)) if item not in have)]
    by, item_shape = shape.merge_key, shape.item
    if any(isinstance(item, dict) and item.get(DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and DIRECTIVE in item)]
    result = [item for item in have if isinstance(item, dict)]
    for item in patch:
        if not isinstance(item, dict) or by not in item:
            raise bad_request(f"map: {item!r} does not contain declared merge key: {by}")
        at = next((i for i, old in enumerate(result) if old.get(by) == item[by]), None)
        if item.get(DIRECTIVE) == "delete":
            result = [old for old in result if old.get(by) != item[by]]
        elif at is None:
            result.append(strategic_merge({}, item, item_shape))
        else:
            result[at] = strategic_merge(result[at], item, item_shape)
    return result


def _hashable(items: list[Any], name: str) -> list[Any]:
    if any(isinstance(item, dict | list) for item in items):
        raise bad_request(f"the elements of {name} must be plain values")
    return items


def _delete_elements(result: dict[str, Any], name: str, gone: Iterable[Any]) -> None:
    items = result.get(name)
    if isinstance(items, list):
        result[name] = [item for item in items if item not in gone]


def _order(
    result: dict[str, Any], name: str, wanted: list[Any], before: Any, patched: Any, shape: Shape
) -> None:
    """``$setElementOrder/x``: what the patch names stands in that order, what only the server has among it.

    Source: ``normalizeElementOrder`` and ``mergeSortedSlice``; ``before`` is the server's list.
    """
    items = result.get(name)
    if not isinstance(items, list):
        return
    identify = _identity(shape)
    order = [identify(item) for item in wanted]
    for item in patched if isinstance(patched, list) else ():
        if not (isinstance(item, dict) and DIRECTIVE in item) and identify(item) not in order:
            raise bad_request(
                f"The order in patch list:\n{patched}\n doesn't match {ORDER_PREFIX}{name} list:\n{wanted}"
            )
    server = [identify(item) for item in before] if isinstance(before, list) else []
    named = [item for item in items if identify(item) in order]
    named.sort(key=lambda item: order.index(identify(item)))
    others = [item for item in items if identify(item) not in order]
    merged = []
    while named and others:
        left, right = identify(named[0]), identify(others[0])
        first = left in server and right in server and server.index(left) < server.index(right)
        merged.append((named if first else others).pop(0))
    result[name] = [*merged, *named, *others]


def _identity(shape: Shape) -> Callable[[Any], Any]:
    by = shape.merge_key if isinstance(shape, ListOf) else ""
    return lambda item: item.get(by, _ABSENT) if by and isinstance(item, dict) else item


def _list(patch: Mapping[str, Any], key: str) -> list[Any]:
    value = patch[key]
    if not isinstance(value, list):
        raise bad_request(f"cannot apply the patch: {key} must be a list")
    return value
