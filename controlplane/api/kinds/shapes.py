"""Shapes: which fields an object has, of what type, and how lists and maps of them merge.

`schema.published` makes them of Kubernetes' published schemas. A shape answers, of any JSON value, and never raises:
which known fields have the wrong type (`type_errors`), which fields are unknown (`unknown`; `prune` removes them),
and how it looks without nulls (`drop_nulls`: the API reads null as absent). Nothing here makes a field required:
the API's zero value of an absent field is fine.
After `type_errors` is empty, a kind's code may trust the types of what its shape names.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

from controlplane.api.kinds.causes import invalid, mistyped
from netplane.kube.errors import Cause
from netplane.kube.objects import parse_time
from netplane.kube.quantity import parse_quantity

QUANTITY_TEXT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value without fields of its own. `wrong` says what it must be, "" if it is that."""

    wrong: Callable[[object], str]


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose elements have one shape.

    `kind`, for who owns what: "atomic" as a whole, "set" by value, "map" by the element's `keys`.
    `merges`: a strategic merge patch merges it, by the elements' `merge_key` or, where that is "", as a set.
    """

    item: Shape
    kind: str = "atomic"
    keys: tuple[str, ...] = ()
    merges: bool = False
    merge_key: str = ""


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with any keys, whose values have one shape; if `atomic`, owned as a whole."""

    value: Shape
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with these fields only; if `atomic`, owned as a whole."""

    fields: Mapping[str, Shape] = field(default_factory=dict)
    atomic: bool = False


Shape = Leaf | ListOf | MapOf | Struct


def _integer(low: int, high: int) -> Leaf:
    def wrong(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "an integer"
        return "" if low <= value <= high else f"an integer between {low} and {high}"

    return Leaf(wrong)


@lru_cache(maxsize=4096, typed=True)
def amount(value: str | float) -> Fraction:
    """`parse_quantity`, remembered: a cluster's pods share a few quantities, and each is looked at many times."""
    return parse_quantity(value)


def _quantity(value: object) -> str:
    if isinstance(value, str | int | float):
        try:
            amount(value)
        except ValueError:
            pass
        else:
            return ""
    return "a quantity such as 100m, 1.5 or 2Gi"


def _time(value: object) -> str:
    wanted = "a time in RFC 3339 form"
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value):
        return wanted
    try:
        return "" if parse_time(value).tzinfo else wanted
    except ValueError:
        return wanted


def _encoded(value: object) -> str:
    try:
        if isinstance(value, str):
            base64.b64decode(value, validate=True)
            return ""
    except (binascii.Error, ValueError):
        pass
    return "a base64 encoded string"


def _integer_or_string(value: object) -> str:
    if isinstance(value, str):
        return ""
    return "an integer or a string" if INTEGER.wrong(value) else ""


ANY = Leaf(lambda _value: "")
STRING = Leaf(lambda value: "" if isinstance(value, str) else "a string")
BOOLEAN = Leaf(lambda value: "" if isinstance(value, bool) else "true or false")
INTEGER = _integer(-(2**31), 2**31 - 1)
LONG = _integer(-(2**63), 2**63 - 1)
NUMBER = Leaf(
    lambda value: "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
)
QUANTITY = Leaf(_quantity)
TIME = Leaf(_time)
BYTES = Leaf(_encoded)
INTEGER_OR_STRING = Leaf(_integer_or_string)


def type_errors(shape: Shape, value: object, path: str = "") -> list[Cause]:
    """A cause for each known field of the wrong type; null and absent are fine."""
    if value is None:
        return []
    match shape:
        case Leaf(wrong):
            wanted = wrong(value)
            return [_leaf_error(shape, path, value, wanted)] if wanted else []
        case ListOf(item):
            if not isinstance(value, list):
                return [mistyped(path, value, "a list")]
            return [
                cause
                for index, element in enumerate(value)
                for cause in _element_errors(item, element, f"{path}[{index}]")
            ]
        case MapOf(of):
            if not isinstance(value, dict):
                return [mistyped(path, value, "an object")]
            return [
                cause
                for key, inner in value.items()
                for cause in _element_errors(of, inner, f"{path}[{key}]")
            ]
        case Struct(fields):
            if not isinstance(value, dict):
                return [mistyped(path, value, "an object")]
            return [
                cause
                for name, inner in fields.items()
                if name in value
                for cause in type_errors(inner, value[name], f"{path}.{name}" if path else name)
            ]


def _leaf_error(shape: Leaf, path: str, value: object, wanted: str) -> Cause:
    if shape is QUANTITY and isinstance(value, str):
        return invalid(path, value, QUANTITY_TEXT)
    return mistyped(path, value, wanted)


def _element_errors(shape: Shape, value: object, path: str) -> list[Cause]:
    """A null element of a list or a map is not an absent one."""
    return [mistyped(path, None, "a value")] if value is None else type_errors(shape, value, path)


def unknown(shape: Shape, value: object, path: str = "") -> list[str]:
    """The paths of fields that the shape does not have, as kube-apiserver writes them."""
    match shape:
        case ListOf(item) if isinstance(value, list):
            return [
                found
                for index, element in enumerate(value)
                for found in unknown(item, element, f"{path}[{index}]")
            ]
        case MapOf(of) if isinstance(value, dict):
            return [
                found
                for name, inner in value.items()
                for found in unknown(of, inner, f"{path}.{name}" if path else name)
            ]
        case Struct(fields) if isinstance(value, dict):
            return [
                found
                for name, inner in value.items()
                for at in [f"{path}.{name}" if path else name]
                for found in (unknown(fields[name], inner, at) if name in fields else [at])
            ]
    return []


def prune(shape: Shape, value: Any) -> None:
    """In place: without the fields that the shape does not have, as the API stores it."""
    match shape:
        case ListOf(item) if isinstance(value, list):
            for element in value:
                prune(item, element)
        case MapOf(of) if isinstance(value, dict):
            for inner in value.values():
                prune(of, inner)
        case Struct(fields) if isinstance(value, dict):
            for name in [name for name in value if name not in fields]:
                del value[name]
            for name, inner in value.items():
                prune(fields[name], inner)


def drop_nulls(shape: Shape, value: Any) -> None:
    """In place: fields that are null become absent, strings and quantities of a map that are null become zero."""
    match shape:
        case ListOf(item) if isinstance(value, list):
            for element in value:
                drop_nulls(item, element)
        case MapOf(of) if isinstance(value, dict):
            for name, inner in value.items():
                if inner is None and isinstance(of, Leaf):
                    value[name] = "0" if of is QUANTITY else ""
                drop_nulls(of, inner)
        case Struct(fields) if isinstance(value, dict):
            for name in [name for name in value if name in fields and value[name] is None]:
                del value[name]
            for name, inner in value.items():
                if name in fields:
                    drop_nulls(fields[name], inner)
