"""Fields that a body says twice: what ``fieldValidation`` calls duplicates. Pure.

A JSON parser keeps the last of them; the client should know. Source: ``sigs.k8s.io/json``, strict errors.
"""

import json
from collections.abc import Hashable, Iterator
from contextlib import suppress
from typing import Any

import orjson
import yaml

from controlplane.api.schema.protobuf import PROTOBUF


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, repetitions and all."""


def repeated(media: str, body: bytes) -> list[str]:
    """What kube-apiserver says of each field that a body repeats; nothing of protobuf and of what cannot be read."""
    if media == PROTOBUF or not body:
        return []
    try:
        if len(orjson.dumps(orjson.loads(body))) == len(body.rstrip()):
            return []  # as compact as it can be, and nothing is missing: the usual case, at a tenth of the cost
    except orjson.JSONDecodeError:
        return _repeated_in_yaml(body) if media.endswith("yaml") else []
    found = dict.fromkeys(_walk(json.loads(body, object_pairs_hook=_Pairs), ""))
    return [f'duplicate field "{path}"' for path in found]


def _walk(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen = set()
        for name, inner in value:
            at = f"{path}.{name}" if path else name
            if name in seen:
                yield at
            seen.add(name)
            yield from _walk(inner, at)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{path}[{index}]")


def _repeated_in_yaml(body: bytes) -> list[str]:
    found = []

    class Loader(yaml.SafeLoader):
        """Notes each key that a mapping has already."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    found.append(f'line {key.start_mark.line + 1}: key "{key.value}" already set in map')
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    with suppress(yaml.YAMLError, UnicodeDecodeError):
        yaml.load(body, Loader)
    return found
