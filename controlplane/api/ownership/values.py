"""What a set of fields says of an object of some shape: which it has, which differ, how to merge and remove. Pure.

Source: ``structured-merge-diff/v4/typed``. A struct or map is looked into unless it is atomic, a list if it is a
set or has keys; everything else is one field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.api.kinds.shapes import ListOf, MapOf, Shape, Struct
from controlplane.api.ownership.fields import NOTHING, FieldSet, Path, field, keyed, valued

# Keys that may be left out of a list's element. The published schemas carry no defaults; Kubernetes has only this
# one among the keys of its lists (ServicePort and ContainerPort).
KEY_DEFAULTS: Mapping[str, Any] = {"protocol": "TCP"}
# Go writes these even where they are empty, so nobody is the first to set them.
_ALWAYS_THERE = frozenset({"f:metadata", "f:spec", "f:status", "f:template", "f:containers", "f:strategy"})

_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a new object differs from an old one."""

    added: FieldSet = NOTHING
    modified: FieldSet = NOTHING
    removed: FieldSet = NOTHING

    @property
    def written(self) -> FieldSet:
        """The fields that have a new value."""
        return self.added | self.modified


def parts(shape: Shape, value: Any) -> dict[str, tuple[Shape, Any]] | None:
    """What is in a value, by path element; None for what is owned as a whole."""
    match shape:
        case Struct(fields, atomic=False) if isinstance(value, dict):
            return {field(name): (fields[name], inner) for name, inner in value.items() if name in fields}
        case MapOf(of, atomic=False) if isinstance(value, dict):
            return {field(name): (of, inner) for name, inner in value.items()}
        case ListOf(item, kind="map" | "set") if isinstance(value, list):
            return {element_of(shape, inner): (item, inner) for inner in value}
    return None


def element_of(shape: ListOf, item: Any) -> str:
    """The path element of an item of a set or a keyed list."""
    if shape.kind == "set":
        return valued(item)
    keys = {}
    for key in shape.keys:
        found = item.get(key) if isinstance(item, dict) else None
        found = KEY_DEFAULTS.get(key) if found is None else found
        if found is not None or key == shape.keys[0]:
            keys[key] = found
    return keyed(keys)


def set_of(shape: Shape, value: Any) -> FieldSet:
    """The fields that a configuration has an opinion on."""
    found: set[Path] = set()
    _opinions(shape, value, (), found)
    return frozenset(found)


def _opinions(shape: Shape, value: Any, path: Path, found: set[Path]) -> None:
    inner = parts(shape, value)
    if inner is None or (path and value == {}):
        found.add(path)
        return
    for element, (inner_shape, inner_value) in inner.items():
        at = (*path, element)
        _opinions(inner_shape, inner_value, at, found)
        if not isinstance(shape, Struct):
            found.add(at)


def compare(shape: Shape, old: Any, new: Any) -> Comparison:
    """The fields in which two objects differ."""
    added: set[Path] = set()
    modified: set[Path] = set()
    removed: set[Path] = set()

    def walk(shape: Shape, old: Any, new: Any, path: Path) -> None:
        if old is _ABSENT:
            _all(shape, new, path, added)
        elif new is _ABSENT:
            _all(shape, old, path, removed)
        elif old != new:
            before, after = parts(shape, old), parts(shape, new)
            if before is None or after is None:
                modified.add(path)
                return
            for element in before.keys() | after.keys():
                inner = (before.get(element) or after[element])[0]
                one, two = (side[element][1] if element in side else _ABSENT for side in (before, after))
                walk(inner, one, two, (*path, element))

    walk(shape, old, new, ())
    return Comparison(frozenset(added), frozenset(modified), frozenset(removed))


def _all(shape: Shape, value: Any, path: Path, found: set[Path]) -> None:
    """Every field of a value, and what holds them."""
    inner = parts(shape, value)
    if not inner or (path and path[-1] not in _ALWAYS_THERE):
        found.add(path)
    for element, (inner_shape, inner_value) in (inner or {}).items():
        _all(inner_shape, inner_value, (*path, element), found)


def merge(shape: Shape, live: Any, applied: Any) -> Any:
    """What applying a configuration makes of a live value; a null removes."""
    if parts(shape, applied) is None or parts(shape, live) is None:
        return applied
    match shape:
        case Struct() | MapOf():
            result = dict(live)
            for name, value in applied.items():
                if value is None:
                    result.pop(name, None)
                else:
                    inner = shape.value if isinstance(shape, MapOf) else shape.fields.get(name)
                    result[name] = merge(inner, live.get(name), value) if inner is not None else value
            return result
        case ListOf():
            return _merge_list(shape, live, applied)
    return applied


def _merge_list(shape: ListOf, live: list[Any], applied: list[Any]) -> list[Any]:
    """Applied elements in their order; those that only the live list has keep their place before the next of them."""
    wanted = {element_of(shape, item): item for item in applied}
    have = {element_of(shape, item): item for item in live}
    waiting = list(wanted)
    result = []
    for element, item in have.items():
        while element in waiting:
            result.append(_merged_element(shape, have, wanted, waiting.pop(0)))
        if element not in wanted:
            result.append(item)
    return result + [_merged_element(shape, have, wanted, element) for element in waiting]


def _merged_element(shape: ListOf, have: Mapping[str, Any], wanted: Mapping[str, Any], element: str) -> Any:
    return merge(shape.item, have[element], wanted[element]) if element in have else wanted[element]


def remove(shape: Shape, value: Any, fields: FieldSet) -> Any:
    """The value without these fields; what is empty then goes as well. An element that stays keeps its keys."""
    inner = parts(shape, value)
    if inner is None or not fields:
        return value
    keys = frozenset((field(key),) for key in shape.keys) if isinstance(shape, ListOf) else NOTHING
    kept: dict[str, Any] = {}
    for element, (inner_shape, inner_value) in inner.items():
        if (element,) in fields:
            continue
        tails = frozenset(path[1:] for path in fields if path[0] == element) - keys
        left = remove(inner_shape, inner_value, tails)
        if left or left == inner_value:
            kept[element] = left
    if isinstance(value, list):
        return list(kept.values())
    unknown = {name: item for name, item in value.items() if field(name) not in inner}
    return {element[2:]: item for element, item in kept.items()} | unknown
