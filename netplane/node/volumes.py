"""A pod's volumes: what is in them and where containers see them. Pure.

Source: Kubernetes documentation, "Volumes" and "Projected Volumes"; messages as kubelet's volume plugins word them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.kube.objects import Object, annotations_of, labels_of
from netplane.kube.references import Reference
from netplane.kube.resources import CONFIGMAPS, SECRETS
from netplane.node.configs import Found
from netplane.node.environment import Missing, data_of, field_value, not_found
from netplane.node.runtimes import Mount

WRITTEN = ("configMap", "secret", "downwardAPI", "projected")  # volumes whose files the agent writes
SERVED = ("emptyDir", *WRITTEN)
FILE_MODE = 0o644


@dataclass(frozen=True, slots=True)
class File:
    """One file of a volume."""

    data: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where a node keeps volumes: ``scratch`` survives a reboot, ``written`` need not."""

    scratch: Path
    written: Path

    def of(self, uid: str, volume: Mapping[str, Any]) -> Path:
        """A pod's volume."""
        base = self.scratch if volume.get("emptyDir") is not None else self.written
        return base / uid / str(volume["name"])


def volumes_of(pod: Object) -> list[dict[str, Any]]:
    """`spec.volumes`, empty when absent."""
    return list((pod.get("spec") or {}).get("volumes") or [])


def is_written(volume: Mapping[str, Any]) -> bool:
    """Whether the agent writes its files."""
    return any(volume.get(kind) is not None for kind in WRITTEN)


def files_of(pod: Object, volume: Mapping[str, Any], found: Found) -> dict[str, File]:
    """The files of a written volume by relative path. Raises Missing."""
    files: dict[str, File] = {}
    if projected := volume.get("projected"):
        mode = int(projected.get("defaultMode", FILE_MODE))
        for source in projected.get("sources") or []:
            files |= _source(pod, source, mode, found)
        return files
    (kind,) = (kind for kind in WRITTEN if volume.get(kind) is not None)
    return _source(pod, volume, int(volume[kind].get("defaultMode", FILE_MODE)), found)


def _source(pod: Object, source: Mapping[str, Any], mode: int, found: Found) -> dict[str, File]:
    if (items := source.get("downwardAPI")) is not None:
        return {
            str(item["path"]): File(_downward(pod, item), int(item.get("mode", mode)))
            for item in items.get("items") or []
        }
    for kind, resource in (("configMap", CONFIGMAPS), ("secret", SECRETS)):
        if (wanted := source.get(kind)) is not None:
            name = str(wanted.get("name") or wanted.get("secretName") or "")
            return _keys(wanted, Reference(resource, name), mode, found)
    return {}


def _keys(wanted: Mapping[str, Any], reference: Reference, mode: int, found: Found) -> dict[str, File]:
    data, optional = data_of(found, reference), bool(wanted.get("optional"))
    if data is None:
        if optional:
            return {}
        raise not_found(reference)
    items = wanted.get("items")
    if not items:
        return {key: File(value, mode) for key, value in data.items()}
    files = {}
    for item in items:
        key = str(item.get("key"))
        if key in data:
            files[str(item.get("path"))] = File(data[key], int(item.get("mode", mode)))
        elif not optional:
            kind = "config" if reference.resource == CONFIGMAPS else "secret"
            raise Missing(f"references non-existent {kind} key: {key}")
    return files


def _downward(pod: Object, item: Mapping[str, Any]) -> bytes:
    path = str((item.get("fieldRef") or {}).get("fieldPath"))
    if path in ("metadata.labels", "metadata.annotations"):
        pairs = labels_of(pod) if path == "metadata.labels" else annotations_of(pod)
        return "\n".join(f"{key}={_quoted(value)}" for key, value in sorted(pairs.items())).encode()
    return field_value(pod, path, {}).encode()


def _quoted(text: str) -> str:
    """As Go's %q for printable text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def mounts_of(pod: Object, uid: str, places: Places) -> list[Mount]:
    """What is shown where. All containers of a pod share one file tree: see `conflicts`."""
    by_name = {str(volume["name"]): volume for volume in volumes_of(pod)}
    found: dict[str, Mount] = {}
    for _, mount in _volume_mounts(pod):
        volume = by_name[str(mount["name"])]
        source = places.of(uid, volume) / str(mount.get("subPath") or "")
        read_only = bool(mount.get("readOnly")) or is_written(volume)
        found[str(mount["mountPath"])] = Mount(source, str(mount["mountPath"]), read_only)
    return list(found.values())


def refusals(pod: Object) -> Iterator[str]:
    """What of a pod's volumes is not served, each naming its field."""
    for index, volume in enumerate(volumes_of(pod)):
        where = f"spec.volumes[{index}] ({volume.get('name')})"
        given = [kind for kind, value in volume.items() if kind != "name" and value is not None]
        for kind in given:
            if kind not in SERVED:
                yield f"{where}.{kind}"
        empty = volume.get("emptyDir") or {}
        yield from (f"{where}.emptyDir.{field}" for field in ("medium", "sizeLimit") if empty.get(field))
        for source in (volume.get("projected") or {}).get("sources") or []:
            yield from (f"{where}.projected.{kind}" for kind in source if kind not in WRITTEN)
        yield from _resource_fields(where, volume)
    yield from conflicts(pod)


def _resource_fields(where: str, volume: Mapping[str, Any]) -> Iterator[str]:
    sources = [volume, *((volume.get("projected") or {}).get("sources") or [])]
    for source in sources:
        for item in (source.get("downwardAPI") or {}).get("items") or []:
            if item.get("resourceFieldRef"):
                yield f"{where}.downwardAPI.items.resourceFieldRef"


def conflicts(pod: Object) -> Iterator[str]:
    """Mounts that this runtime cannot give each container on its own."""
    seen: dict[str, tuple[object, ...]] = {}
    for where, mount in _volume_mounts(pod):
        for field in ("subPathExpr", "recursiveReadOnly"):
            if mount.get(field):
                yield f"{where}.{field}"
        if mount.get("mountPropagation") not in (None, "", "None"):
            yield f"{where}.mountPropagation"
        path = str(mount.get("mountPath"))
        what = (mount.get("name"), mount.get("subPath") or "", bool(mount.get("readOnly")))
        if seen.setdefault(path, what) != what:
            yield f"{where}.mountPath {path}: another container of the pod mounts something else there, which"


def _volume_mounts(pod: Object) -> Iterable[tuple[str, dict[str, Any]]]:
    for index, container in enumerate((pod.get("spec") or {}).get("containers") or []):
        for number, mount in enumerate(container.get("volumeMounts") or []):
            yield f"spec.containers[{index}].volumeMounts[{number}]", mount
