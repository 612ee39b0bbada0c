"""The extracted data as it lies beside this module: read once, at its first use."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from netplane.errors import ConfigError, cause_of

DATA = Path(__file__).parent / "data"

Schema = Mapping[str, Any]

# What netplane acts on and the published version did not have yet: properties of definitions, and new definitions.
LATER: Mapping[str, Schema] = {
    "io.k8s.api.discovery.v1.EndpointHints": {
        "forNodes": {
            "description": "forNodes indicates the node(s) this endpoint should be consumed by (PreferSameNode).",
            "items": {"$ref": "#/components/schemas/io.k8s.api.discovery.v1.ForNode"},
            "type": "array",
            "x-kubernetes-list-type": "atomic",
        }
    },
    "io.k8s.api.discovery.v1.ForNode": {
        "name": {"description": "name represents the name of the node.", "type": "string"}
    },
}


@cache
def definitions() -> Mapping[str, Schema]:
    """OpenAPI v3 schemas by name, such as ``io.k8s.api.core.v1.Pod``. Raises ConfigError."""
    found = dict(_read("schemas.json"))
    for name, properties in LATER.items():
        known = found.get(name, {"type": "object", "required": list(properties)})
        found[name] = {**known, "properties": {**known.get("properties", {}), **properties}}
    return found


@cache
def messages() -> Schema:
    """Protobuf tables as `build.protobuf` writes them. Raises ConfigError."""
    return _read("protobuf.json")


def definition_name(group: str, version: str, kind: str) -> str:
    """The schema of an API kind; the group's directory is the first label of its name."""
    return f"io.k8s.api.{group.partition('.')[0] or 'core'}.{version}.{kind}"


def _read(name: str) -> Schema:
    try:
        found: Schema = orjson.loads((DATA / name).read_bytes())
    except FileNotFoundError:
        hint = "Run ./dev setup in the source tree (and build the wheel after it)."
        raise ConfigError(f"cannot read the API's schema data: there is no {name} in {DATA}", hint) from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"cannot read the API's schema data: {DATA / name}: {cause_of(error)}") from None
    return found
