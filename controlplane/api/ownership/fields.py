"""Paths and sets of fields, and their FieldsV1 form. Pure.

Source: ``structured-merge-diff/v4/fieldpath`` and the description of ``FieldsV1`` in the API reference.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

Path = tuple[str, ...]
"""Elements ``f:name``, ``k:{"name":"x"}`` (an element of a list by its keys), ``v:"x"`` (one of a set)."""
FieldSet = frozenset[Path]
NOTHING: FieldSet = frozenset()


def field(name: str) -> str:
    """The element that is a field or a map's key."""
    return f"f:{name}"


def keyed(keys: Mapping[str, Any]) -> str:
    """The element of a list that has these keys."""
    return "k:" + _canonical(keys)


def valued(value: Any) -> str:
    """The element of a set."""
    return "v:" + _canonical(value)


def _canonical(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def read(text: str) -> Any:
    """The keys or the value in an element of a list."""
    return orjson.loads(text[2:])


def decode(trie: Any) -> FieldSet:
    """The set in a FieldsV1 trie. Raises ValueError."""
    found: set[Path] = set()
    _collect(trie, (), found)
    return frozenset(found)


def _collect(trie: Any, path: Path, found: set[Path]) -> None:
    if not isinstance(trie, dict):
        raise ValueError(f"fieldsV1: an object belongs at {text(path) or 'the top'}")
    for name, inner in trie.items():
        if name == ".":
            found.add(path)
            continue
        if name[:2] not in ("f:", "k:", "v:", "i:"):
            raise ValueError(f"fieldsV1: {name!r} is no path element")
        at = (*path, name[:2] + _canonical(read(name)) if name[:2] in ("k:", "v:") else name)
        if inner:
            _collect(inner, at, found)
        else:
            found.add(at)


def encode(fields: Iterable[Path]) -> dict[str, Any]:
    """The FieldsV1 trie of a set."""
    root: dict[str, Any] = {}
    for path in sorted(fields):
        node = root
        for element in path:
            node = node.setdefault(element, {})
        node["."] = {}
    return _folded(root)


def _folded(node: dict[str, Any]) -> dict[str, Any]:
    """A leaf is written as an empty object."""
    if node.keys() == {"."}:
        return {}
    return {name: _folded(node[name]) for name in sorted(node)}


def text(path: Path) -> str:
    """A path as messages write it: ``.spec.containers[name="web"].image``."""
    return "".join(_element_text(element) for element in path)


def _element_text(element: str) -> str:
    kind, rest = element[:2], element[2:]
    if kind == "f:":
        return f".{rest}"
    if kind == "k:":
        pairs = sorted(read(element).items())
        return "[" + ",".join(f"{name}={_canonical(value)}" for name, value in pairs) + "]"
    return f"[={rest}]" if kind == "v:" else f"[{rest}]"


def below(fields: Iterable[Path], prefix: Path) -> FieldSet:
    """Those paths that begin so."""
    return frozenset(path for path in fields if path[: len(prefix)] == prefix)
