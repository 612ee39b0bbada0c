"""The published schemas as shapes: the one description of fields that types, merges and ownership go by.

Source: ``x-kubernetes-*`` extensions of the Kubernetes OpenAPI definitions ("Server-Side Apply: Merge strategy",
"Strategic merge patch").
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from controlplane.api.kinds.shapes import (
    ANY,
    BOOLEAN,
    BYTES,
    INTEGER,
    INTEGER_OR_STRING,
    LONG,
    NUMBER,
    QUANTITY,
    STRING,
    TIME,
    ListOf,
    MapOf,
    Shape,
    Struct,
)
from controlplane.api.schema.data import Schema, definition_name, definitions
from netplane.kube.resources import Resource

X = "x-kubernetes-"
_LEAVES: Mapping[tuple[str, str], Shape] = {
    ("string", ""): STRING,
    ("string", "byte"): BYTES,
    ("string", "date-time"): TIME,
    ("boolean", ""): BOOLEAN,
    ("integer", ""): LONG,
    ("integer", "int32"): INTEGER,
    ("integer", "int64"): LONG,
    ("number", ""): NUMBER,
    ("number", "double"): NUMBER,
}
_NAMED: Mapping[str, Shape] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": QUANTITY,
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": INTEGER_OR_STRING,
}
UNKNOWN: Shape = ANY
"""A kind without published data: anything may be in it."""


def shape_of(resource: Resource) -> Shape:
    """The shape of a resource's objects. Raises ConfigError where the data is missing."""
    name = definition_name(resource.group, resource.version, resource.kind)
    return published(name) if name in definitions() else UNKNOWN


def struct(name: str) -> Struct:
    """The published object ``core.v1.PodSpec``, ``apps.v1.Deployment``, ... Raises ConfigError."""
    found = published(f"io.k8s.api.{name}")
    assert isinstance(found, Struct), name
    return found


@cache
def published(name: str) -> Shape:
    """The shape of a definition by its full name."""
    return _NAMED.get(name) or _shape(definitions()[name])


def _shape(schema: Schema) -> Shape:
    reference = schema.get("$ref") or next((part["$ref"] for part in schema.get("allOf", ())), None)
    if reference is not None:
        return _with_extensions(published(reference.rpartition("/")[2]), schema)
    if "properties" in schema:
        fields = {name: _shape(field) for name, field in schema["properties"].items()}
        return _with_extensions(Struct(fields), schema)
    if "additionalProperties" in schema:
        return _with_extensions(MapOf(_shape(schema["additionalProperties"])), schema)
    if "items" in schema:
        return _list(schema)
    return _LEAVES.get((schema.get("type", ""), schema.get("format", "")), ANY)


def _with_extensions(shape: Shape, schema: Schema) -> Shape:
    atomic = schema.get(f"{X}map-type") == "atomic"
    return replace(shape, atomic=True) if atomic and isinstance(shape, Struct | MapOf) else shape


def _list(schema: Schema) -> ListOf:
    strategies = str(schema.get(f"{X}patch-strategy", "")).split(",")
    keys: list[Any] = schema.get(f"{X}list-map-keys", [])
    return ListOf(
        _shape(schema["items"]),
        kind=schema.get(f"{X}list-type", "atomic"),
        keys=tuple(keys),
        merges="merge" in strategies,
        merge_key=schema.get(f"{X}patch-merge-key", ""),
    )
