"""The three patches a client may send: JSON patch, merge patch, strategic merge patch. Pure.

Source: RFC 6902, RFC 7386, and Kubernetes' ``api-conventions`` and ``apimachinery/pkg/util/strategicpatch``.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from controlplane.api.kinds.shapes import ANY, Shape
from controlplane.api.writing.strategic import strategic_merge
from netplane.kube.errors import StatusError, bad_request
from netplane.kube.objects import Object

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
PATCHES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)
_MAX_OPERATIONS = 10_000


def apply(content_type: str, target: Object, patch: Any, shape: Shape = ANY) -> Object:
    """The patched object of this shape; ``target`` is not changed. Raises StatusError 400 or 422 naming the part."""
    if content_type == JSON_PATCH:
        result = json_patch(target, patch)
    elif not isinstance(patch, dict):
        raise bad_request(f"cannot apply the patch: it must be a JSON object, not {_type(patch)}")
    else:
        result = (
            merge_patch(target, patch)
            if content_type == MERGE_PATCH
            else strategic_merge(target, patch, shape)
        )
    if not isinstance(result, dict):
        raise bad_request("cannot apply the patch: the result is not an object")
    return result


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902: a list of operations, all or none."""
    if not isinstance(operations, list) or len(operations) > _MAX_OPERATIONS:
        raise bad_request(
            f"cannot apply the JSON patch: it must be a list of at most {_MAX_OPERATIONS} operations"
        )
    document = orjson.loads(orjson.dumps(target))
    for index, operation in enumerate(operations):
        try:
            document = _operate(document, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            cause = error.args[0] if error.args else type(error).__name__
            text = f"cannot apply operation {index} of the JSON patch: {cause}"
            raise StatusError(422, "Invalid", text) from None
    return document


def _operate(document: Any, operation: Any) -> Any:
    if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
        raise ValueError("it must be an object with op and path")
    path = _pointer(operation["path"])
    match operation.get("op"):
        case "add":
            return _add(document, path, _value(operation))
        case "remove":
            return _remove(document, path)
        case "replace":
            _get(document, path)
            return _add(_remove(document, path), path, _value(operation)) if path else _value(operation)
        case "move":
            source = _pointer(operation["from"])
            moved = _get(document, source)
            return _add(_remove(document, source), path, moved)
        case "copy":
            return _add(
                document, path, orjson.loads(orjson.dumps(_get(document, _pointer(operation["from"]))))
            )
        case "test":
            if _get(document, path) != _value(operation):
                raise ValueError(f"testing value {operation['path']} failed")
            return document
        case other:
            raise ValueError(f"unknown op {other!r}")


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise ValueError("value is missing")
    return operation["value"]


def _pointer(text: str) -> list[str]:
    """RFC 6901."""
    if text and not text.startswith("/"):
        raise ValueError(f"path {text!r} must begin with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _index(items: list[Any], part: str, limit: int) -> int:
    if not (part.isascii() and part.isdigit()) or (part != "0" and part.startswith("0")):
        raise ValueError(f"{part!r} is not a list index")
    if int(part) >= limit:
        raise IndexError(f"index {part} is beyond the list's {len(items)} elements")
    return int(part)


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(document, list):
            document = document[_index(document, part, len(document))]
        elif isinstance(document, dict) and part in document:
            document = document[part]
        else:
            raise KeyError(f"there is no {part!r} at /{'/'.join(path)}")
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(parent, last, len(parent) + 1), value)
    elif isinstance(parent, dict):
        parent[last] = value
    else:
        raise ValueError(f"there is nothing to add to at /{'/'.join(path[:-1])}")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    _get(document, path)
    if not path:
        return None
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        del parent[_index(parent, last, len(parent))]
    else:
        del parent[last]
    return document


def _type(value: Any) -> str:
    return {list: "a list", str: "a string", type(None): "null"}.get(type(value), "a number or a boolean")
