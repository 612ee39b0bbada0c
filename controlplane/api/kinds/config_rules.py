"""What is wrong with how a pod takes in ConfigMaps, Secrets and its own fields: by variable and by volume.

Source: Kubernetes `pkg/apis/core/validation/validation.go` (validateEnvFrom, validateVolumeSource and below).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from netplane.kube.errors import Cause

Fields = Mapping[str, Any]

MODE_MOST = 0o777
_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
_PROJECTIONS = ("secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle")
TOKEN_SECONDS_LEAST = 600


def env_from_causes(sources: Iterable[Fields], path: str) -> list[Cause]:
    """`envFrom` of a container."""
    found: list[Cause] = []
    for index, source in enumerate(sources):
        at = f"{path}[{index}]"
        prefix = source.get("prefix") or ""
        if prefix and (wrong := names.environment_name(prefix)):
            found.append(causes.invalid(f"{at}.prefix", prefix, wrong))
        given = [kind for kind in ("configMapRef", "secretRef") if source.get(kind) is not None]
        if not given:
            found.append(causes.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(given) > 1:
            found.append(causes.invalid(at, "", "may not have more than one field specified at a time"))
        found += [causes.required(f"{at}.{kind}.name") for kind in given if not source[kind].get("name")]
    return found


def key_ref_causes(reference: Fields, path: str) -> list[Cause]:
    """`configMapKeyRef` and `secretKeyRef` of a variable."""
    found = [] if reference.get("name") else [causes.required(f"{path}.name")]
    key = reference.get("key") or ""
    if not key:
        found.append(causes.required(f"{path}.key"))
    elif wrong := names.config_key(key):
        found.append(causes.invalid(f"{path}.key", key, wrong))
    return found


def volume_source_causes(volume: Fields, path: str) -> list[Cause]:
    """The sources of a volume whose files are written from elsewhere."""
    found: list[Cause] = []
    for kind, name in (("configMap", "name"), ("secret", "secretName")):
        if (source := volume.get(kind)) is not None:
            found += [] if source.get(name) else [causes.required(f"{path}.{kind}.{name}")]
            found += _mode_causes(source.get("defaultMode"), f"{path}.{kind}.defaultMode")
            found += _items_causes(source.get("items") or [], f"{path}.{kind}.items")
    if (source := volume.get("downwardAPI")) is not None:
        found += _mode_causes(source.get("defaultMode"), f"{path}.downwardAPI.defaultMode")
        found += _downward_causes(source.get("items") or [], f"{path}.downwardAPI.items")
    if (source := volume.get("projected")) is not None:
        found += _mode_causes(source.get("defaultMode"), f"{path}.projected.defaultMode")
        found += _projected_causes(source.get("sources") or [], f"{path}.projected.sources")
    return found


def _projected_causes(sources: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    seen: set[str] = set()
    for index, source in enumerate(sources):
        at = f"{path}[{index}]"
        given = [kind for kind in _PROJECTIONS if source.get(kind) is not None]
        found += [
            causes.forbidden(f"{at}.{kind}", "may not specify more than 1 volume type per source")
            for kind in given[1:]
        ]
        for kind in given[:1]:
            found += _projection_causes(kind, source[kind], f"{at}.{kind}")
            for item in source[kind].get("items") or []:
                where = item.get("path") or ""
                if where and where in seen:
                    found.append(causes.invalid(f"{at}.{kind}", where, "conflicting duplicate paths"))
                seen.add(where)
    return found


def _projection_causes(kind: str, source: Fields, path: str) -> list[Cause]:
    if kind in ("configMap", "secret"):
        found = [] if source.get("name") else [causes.required(f"{path}.name")]
        return found + _items_causes(source.get("items") or [], f"{path}.items")
    if kind == "downwardAPI":
        return _downward_causes(source.get("items") or [], f"{path}.items")
    if kind == "serviceAccountToken":
        found = _path_causes(source.get("path") or "", f"{path}.path")
        seconds = source.get("expirationSeconds")
        if seconds is not None and seconds < TOKEN_SECONDS_LEAST:
            found.append(
                causes.invalid(
                    f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"
                )
            )
        return found
    return []


def _items_causes(items: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        found += [] if item.get("key") else [causes.required(f"{at}.key")]
        found += _path_causes(item.get("path") or "", f"{at}.path")
        found += _mode_causes(item.get("mode"), f"{at}.mode")
    return found


def _downward_causes(items: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        found += _path_causes(item.get("path") or "", f"{at}.path")
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is None and resource is None:
            found.append(causes.required(at, "one of fieldRef and resourceFieldRef is required"))
        elif field is not None and resource is not None:
            detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
            found.append(causes.invalid(at, "resource", detail))
        elif field is not None and not field.get("fieldPath"):
            found.append(causes.required(f"{at}.fieldRef.fieldPath"))
        found += _mode_causes(item.get("mode"), f"{at}.mode")
    return found


def _mode_causes(mode: int | None, path: str) -> list[Cause]:
    return [] if mode is None or 0 <= mode <= MODE_MOST else [causes.invalid(path, mode, _MODE)]


def _path_causes(path: str, field: str) -> list[Cause]:
    return [causes.required(field)] if not path else inner_path_causes(path, field)


def inner_path_causes(path: str, field: str) -> list[Cause]:
    """A path that must stay within its volume."""
    if path.startswith("/"):
        return [causes.invalid(field, path, "must be a relative path")]
    if ".." in path.split("/"):
        return [causes.invalid(field, path, "must not contain '..'")]
    if path.startswith(".."):
        return [causes.invalid(field, path, "must not start with '..'")]
    return []
