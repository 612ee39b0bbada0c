"""Which ConfigMaps and Secrets a pod uses: what its node must read for it, and may read only because of it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from netplane.kube.objects import Object
from netplane.kube.resources import CONFIGMAPS, SECRETS, Resource


class Reference(NamedTuple):
    """One object of the pod's namespace."""

    resource: Resource
    name: str


def references_of(pod: Object) -> frozenset[Reference]:
    """All that the pod's spec names; parts of the wrong type name nothing."""
    return frozenset(
        Reference(resource, name)
        for resource, name in _named(_mapping(pod, "spec"))
        if isinstance(name, str) and name
    )


def _named(spec: dict[str, Any]) -> Iterator[tuple[Resource, object]]:
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in _mappings(spec, field):
            for variable in _mappings(container, "env"):
                source = _mapping(variable, "valueFrom")
                yield CONFIGMAPS, _mapping(source, "configMapKeyRef").get("name")
                yield SECRETS, _mapping(source, "secretKeyRef").get("name")
            for source in _mappings(container, "envFrom"):
                yield CONFIGMAPS, _mapping(source, "configMapRef").get("name")
                yield SECRETS, _mapping(source, "secretRef").get("name")
    for volume in _mappings(spec, "volumes"):
        yield CONFIGMAPS, _mapping(volume, "configMap").get("name")
        yield SECRETS, _mapping(volume, "secret").get("secretName")
        for source in _mappings(_mapping(volume, "projected"), "sources"):
            yield CONFIGMAPS, _mapping(source, "configMap").get("name")
            yield SECRETS, _mapping(source, "secret").get("name")
    for pull in _mappings(spec, "imagePullSecrets"):
        yield SECRETS, pull.get("name")


def _mapping(value: dict[str, Any], field: str) -> dict[str, Any]:
    found = value.get(field)
    return found if isinstance(found, dict) else {}


def _mappings(value: dict[str, Any], field: str) -> list[dict[str, Any]]:
    found = value.get(field)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
