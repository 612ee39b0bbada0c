"""ConfigMap and Secret: what pods are told by name.

Source: Kubernetes `pkg/apis/core/validation/validation.go` (ValidateConfigMap, ValidateSecret).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping

import orjson

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import defaulting, name_fields, validating
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, annotations_of
from netplane.kube.resources import CONFIGMAPS, SECRETS

CONFIGMAP = shape_of(CONFIGMAPS)
SECRET = shape_of(SECRETS)

SIZE_MOST = 1024 * 1024
OPAQUE = "Opaque"
SEALED = "field is immutable when `immutable` is set"
REDACTED = "<secret contents redacted>"
ACCOUNT_NAME = "kubernetes.io/service-account.name"
_JSON_KEYS = {
    "kubernetes.io/dockercfg": ".dockercfg",
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
}
_NEEDED_KEYS = {"kubernetes.io/tls": ("tls.crt", "tls.key"), "kubernetes.io/ssh-auth": ("ssh-privatekey",)}
_LOGIN = ("username", "password")


def _no_defaults(_config_map: Object) -> None:
    """A ConfigMap has no defaults."""


def _default_secret(secret: Object) -> None:
    """`stringData` is for writers only: it ends up in `data`, and wins there."""
    if not secret.get("type"):
        secret["type"] = OPAQUE
    plain = secret.pop("stringData", None)
    if plain:
        encoded = {
            key: base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()
            for key, value in plain.items()
        }
        secret["data"] = {**(secret.get("data") or {}), **encoded}


def _configmap_causes(new: Object, old: Object | None) -> list[Cause]:
    data, binary = new.get("data") or {}, new.get("binaryData") or {}
    found = _key_causes(data, "data") + _key_causes(binary, "binaryData")
    detail = "duplicate of key present in binaryData"
    found += [causes.invalid(f"data[{key}]", key, detail) for key in data if key in binary]
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in data.values())
    if size + _decoded_size(binary.values()) > SIZE_MOST:
        found.append(causes.too_long("data", SIZE_MOST))
    return found + _sealed(new, old, ("data", "binaryData"))


def _secret_causes(new: Object, old: Object | None) -> list[Cause]:
    data = new.get("data") or {}
    found = _key_causes(data, "data")
    if _decoded_size(data.values()) > SIZE_MOST:
        found.append(causes.too_long("data", SIZE_MOST))
    found += _type_causes(new, data)
    if old is not None and new.get("type") != old.get("type"):
        found.append(causes.invalid("type", new.get("type"), causes.IMMUTABLE))
    return found + _sealed(new, old, ("data",))


def _type_causes(secret: Object, data: Mapping[str, str]) -> list[Cause]:
    """The keys that a Secret of a well-known type must have."""
    kind = secret.get("type") or ""
    if kind == "kubernetes.io/service-account-token" and not annotations_of(secret).get(ACCOUNT_NAME):
        return [causes.required(f"metadata.annotations[{ACCOUNT_NAME}]")]
    if kind == "kubernetes.io/basic-auth" and not any(key in data for key in _LOGIN):
        return [causes.required(f"data[{key}]") for key in _LOGIN]
    if kind in _JSON_KEYS:
        return _json_causes(data, _JSON_KEYS[kind])
    empty_counts = kind == "kubernetes.io/tls"
    return [
        causes.required(f"data[{key}]")
        for key in _NEEDED_KEYS.get(kind, ())
        if not (key in data if empty_counts else data.get(key))
    ]


def _json_causes(data: Mapping[str, str], key: str) -> list[Cause]:
    if key not in data:
        return [causes.required(f"data[{key}]")]
    try:
        parsed = orjson.loads(base64.b64decode(data[key]))
    except orjson.JSONDecodeError as error:
        return [causes.invalid(f"data[{key}]", REDACTED, str(error))]
    return [] if isinstance(parsed, dict) else [causes.invalid(f"data[{key}]", REDACTED, "must be an object")]


def _key_causes(data: Iterable[str], path: str) -> list[Cause]:
    return [causes.invalid(f"{path}[{key}]", key, wrong) for key in data if (wrong := names.config_key(key))]


def _decoded_size(values: Iterable[str]) -> int:
    return sum(len(base64.b64decode(value)) for value in values)


def _sealed(new: Object, old: Object | None, fields: Iterable[str]) -> list[Cause]:
    """Once `immutable`, always: neither it nor what it seals changes any more."""
    if old is None or not old.get("immutable"):
        return []
    found = [] if new.get("immutable") else [causes.forbidden("immutable", SEALED)]
    return found + [
        causes.forbidden(field, SEALED)
        for field in fields
        if (new.get(field) or {}) != (old.get(field) or {})
    ]


def _secret_fields(secret: Object) -> Mapping[str, str]:
    return {**name_fields(secret), "type": secret.get("type") or ""}


def _count(obj: Object) -> int:
    return len(obj.get("data") or {}) + len(obj.get("binaryData") or {})


CONFIGMAP_KIND = Kind(
    resource=CONFIGMAPS,
    default=defaulting(CONFIGMAP, _no_defaults),
    validate=validating(CONFIGMAPS, CONFIGMAP, _configmap_causes),
    columns=(NAME, Column("Data", "string", _count), AGE),
    fields=name_fields,
)

SECRET_KIND = Kind(
    resource=SECRETS,
    default=defaulting(SECRET, _default_secret),
    validate=validating(SECRETS, SECRET, _secret_causes),
    columns=(
        NAME,
        Column("Type", "string", lambda secret: secret.get("type") or ""),
        Column("Data", "string", _count),
        AGE,
    ),
    fields=_secret_fields,
)
