"""Read ``application/vnd.kubernetes.protobuf``: what kubectl 1.32 and other typed clients send. Pure.

A table (`build.protobuf`) gives each field's number, type and place; the result is the JSON object that the same
client would have sent as JSON. Source: ``apimachinery/pkg/runtime/serializer/protobuf``, protocol buffers encoding.
"""

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from controlplane.api.schema.data import messages
from netplane.errors import ConfigError
from netplane.kube.errors import StatusError, bad_request
from netplane.kube.objects import Object

PROTOBUF = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_DEPTH = 64
_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BITS = {"int32": 32, "int64": 64}

Value = int | bytes
Table = Mapping[str, Mapping[str, list[Any]]]


class _Malformed(ValueError):
    """The bytes are not what the table says."""


def decode(body: bytes) -> Object:
    """The object in an enveloped body. Raises StatusError 400, or 415 where set-up could not make the table."""
    try:
        tables = messages()
    except ConfigError as error:
        raise StatusError(415, "UnsupportedMediaType", f"{PROTOBUF} cannot be read here: {error}") from None
    if not body.startswith(_MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix k8s\\x00")
    try:
        envelope = dict(_fields(body[len(_MAGIC) :]))
        type_meta = {number: _text(value) for number, value in _fields(_bytes(envelope.get(1, b"")))}
        api_version, kind = type_meta.get(1, ""), type_meta.get(2, "")
        if envelope.get(3):
            raise _Malformed(f"unknown contentEncoding {_text(envelope[3])!r}")
        name = _message_name(tables["kinds"], api_version, kind)
        if name not in tables["messages"]:
            raise _Malformed(f"no kind {kind!r} is registered for version {api_version!r}")
        found = _message(tables["messages"], name, _bytes(envelope.get(2, b"")), _DEPTH)
    except (_Malformed, UnicodeDecodeError, orjson.JSONDecodeError, OverflowError) as error:
        raise bad_request(f"cannot read the body as {PROTOBUF}: {error}") from None
    return {"apiVersion": api_version, "kind": kind, **found}


def _message_name(kinds: Mapping[str, str], api_version: str, kind: str) -> str:
    if kind in ("DeleteOptions", "Status"):  # they come in the version of whatever they are about
        return _META + kind
    group, _, version = api_version.rpartition("/")
    return kinds.get(f"{group.partition('.')[0] or 'core'}/{version}/{kind}", "")


def _message(tables: Table, name: str, data: bytes, depth: int) -> Any:
    """A message as JSON: an object, or what Kubernetes writes for the types that are scalars there."""
    if depth == 0:
        raise _Malformed("it is nested too deeply")
    if special := _SPECIAL.get(name):
        return special(data)
    table = tables[name]
    if len(table) == 1 and table.get("1", ("",))[0] == "items" and name.rpartition(".")[2] == "ExtraValue":
        return [_text(value) for _, value in _fields(data)]
    found: Object = {}
    for number, value in _fields(data):
        entry = table.get(str(number))
        if entry is not None:  # a newer client's field, which this version does not have
            _put(found, tables, entry, value, depth - 1)
    return found


def _put(found: Object, tables: Table, entry: list[Any], value: Value, depth: int) -> None:
    field, kind, count, inline, keep = entry
    if count == "map":
        pair = dict(_fields(_bytes(value)))
        item = _one(tables, kind, pair[2], depth) if 2 in pair else _zero(tables, kind)
        found.setdefault(field, {})[_text(pair.get(1, b""))] = item
        return
    if count == "many":
        items = found.setdefault(field, [])
        if kind in _BITS and isinstance(value, bytes):  # packed
            items += [_signed(number, _BITS[kind]) for number in _varints(value)]
        else:
            items.append(_one(tables, kind, value, depth))
        return
    item = _one(tables, kind, value, depth)
    if inline and isinstance(item, dict):
        found.update(item)
    elif item is not None and (keep or item not in ("", 0, False, {}, [])):
        found[field] = item


def _one(tables: Table, kind: str, value: Value, depth: int) -> Any:
    if kind in tables:
        return _message(tables, kind, _bytes(value), depth)
    if kind == "string":
        return _text(value)
    if kind == "bytes":
        return base64.b64encode(_bytes(value)).decode()
    if not isinstance(value, int):
        raise _Malformed(f"bytes where {kind} belongs")
    if kind == "bool":
        return bool(value)
    if kind in _BITS:
        return _signed(value, _BITS[kind])
    raise _Malformed(f"unknown type {kind}")


def _zero(tables: Table, kind: str) -> Any:
    return "" if kind in ("string", "bytes") else _one(tables, kind, b"" if kind in tables else 0, _DEPTH)


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Each field's number and raw value, in the order of the bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value: Value
            value, at = _varint(data, at)
        elif wire in (_BYTES, _FIXED32, _FIXED64):
            length = {_FIXED32: 4, _FIXED64: 8}.get(wire, 0)
            if wire == _BYTES:
                length, at = _varint(data, at)
            if at + length > len(data):
                raise _Malformed("it ends in the middle of a field")
            value, at = data[at : at + length], at + length
        else:
            raise _Malformed(f"wire type {wire}")
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise _Malformed("it ends in the middle of a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _Malformed("a number is longer than 64 bits")


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _signed(value: int, bits: int) -> int:
    """Two's complement; a negative int32 comes in 64 bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise _Malformed("a number where bytes belong")
    return value


def _text(value: Value) -> str:
    return _bytes(value).decode()


def _time(data: bytes) -> str | None:
    """metav1.Time: whole seconds."""
    moment = _moment(data)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _micro_time(data: bytes) -> str | None:
    """metav1.MicroTime: microseconds, always written."""
    moment = _moment(data)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def _moment(data: bytes) -> datetime | None:
    if not data:
        return None
    parts = dict(_fields(data))
    seconds, nanos = (part if isinstance(part := parts.get(n, 0), int) else 0 for n in (1, 2))
    micros = timedelta(seconds=_signed(seconds, 64), microseconds=nanos // 1000)
    return datetime(1970, 1, 1, tzinfo=UTC) + micros


def _quantity(data: bytes) -> str:
    return _text(dict(_fields(data)).get(1, b"0")) or "0"


def _int_or_string(data: bytes) -> int | str:
    parts = dict(_fields(data))
    if parts.get(1):
        return _text(parts.get(3, b""))
    number = parts.get(2, 0)
    return _signed(number, 32) if isinstance(number, int) else 0


def _raw_json(data: bytes) -> Any:
    raw = dict(_fields(data)).get(1, b"")
    return orjson.loads(_bytes(raw)) if raw else None


_SPECIAL = {
    _META + "Time": _time,
    _META + "MicroTime": _micro_time,
    _META + "FieldsV1": _raw_json,
    "k8s.io.apimachinery.pkg.runtime.RawExtension": _raw_json,
    "k8s.io.apimachinery.pkg.api.resource.Quantity": _quantity,
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
}
