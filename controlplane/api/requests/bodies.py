"""Reading what a client sends: which formats we know, and a clear answer for the others."""

from collections.abc import Sequence
from typing import Any

import orjson
import yaml

from controlplane.api.schema import protobuf
from netplane.kube.errors import bad_request, unsupported_media_type
from netplane.kube.objects import Object

APPLY_PATCH = "application/apply-patch+yaml"
JSON_TYPES = ("application/json", "application/yaml")
OBJECT_TYPES = (*JSON_TYPES, protobuf.PROTOBUF)
MAX_BODY = 3 * 1024 * 1024  # kube-apiserver's limit for a request


def media_type(content_type: str) -> str:
    """The media type without its parameters; a body without one is JSON."""
    return content_type.partition(";")[0].strip().lower() or JSON_TYPES[0]


def decode(content_type: str, body: bytes, supported: Sequence[str] = OBJECT_TYPES) -> Any:
    """The JSON value in a body. Raises StatusError 400 or 415; None for an empty body."""
    media = media_type(content_type)
    if not body:
        return None
    if media not in supported:
        raise unsupported_media_type(media, supported)
    if media == protobuf.PROTOBUF:
        return protobuf.decode(body)
    try:
        return _yaml(body) if media.endswith("yaml") else orjson.loads(body)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise bad_request(f"cannot read the body as {media}: {' '.join(str(error).split())}") from None


def _yaml(body: bytes) -> Any:
    """YAML as the JSON value it stands for: a time is a string. JSON is YAML, and quicker to read."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return orjson.loads(orjson.dumps(yaml.safe_load(body)))


def an_object(content_type: str, body: bytes) -> Object:
    """The JSON object in a body. Raises StatusError 400 or 415."""
    found = decode(content_type, body)
    if not isinstance(found, dict):
        raise bad_request("the body of the request must be an object")
    return found
