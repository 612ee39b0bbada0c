"""What is served here: the answers by which clients find resources, in the old form and the aggregated one. Pure.

Source: Kubernetes API concepts ("API Discovery"); ``apidiscovery/v2`` types.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds.kind import Kind
from controlplane.api.reading.represent import JSON, media_ranges
from controlplane.api.requests.route import verbs_of
from netplane.kube.errors import no_such_path
from netplane.kube.objects import Object

AGGREGATED_VERSIONS = ("v2", "v2beta1")
VERSION: Mapping[str, str] = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+netplane",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "python",
    "platform": "linux/amd64",
}
# The kind of a subresource's own body (group, version, kind), where it is not the object itself.
BODIES: Mapping[str, tuple[str, str, str]] = {
    "scale": ("autoscaling", "v1", "Scale"),
    "binding": ("", "v1", "Binding"),
    "eviction": ("policy", "v1", "Eviction"),
    "exec": ("", "v1", "PodExecOptions"),
    "attach": ("", "v1", "PodAttachOptions"),
    "portforward": ("", "v1", "PodPortForwardOptions"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
}


class Discovery:
    """The documents for a set of kinds, which does not change while the server runs."""

    def __init__(self, kinds: Iterable[Kind], server: str) -> None:
        self._server = server
        self._groups: dict[str, dict[str, list[Kind]]] = {}
        for kind in sorted(kinds, key=lambda kind: kind.resource.plural):
            resource = kind.resource
            self._groups.setdefault(resource.group, {}).setdefault(resource.version, []).append(kind)

    def answer(self, path: str, accept: str) -> tuple[Object, str]:
        """A document and its Content-Type. Raises StatusError 404."""
        parts = [part for part in path.split("/") if part]
        version = aggregated_version(accept)
        match parts:
            case ["api" | "apis"] if version is not None:
                content_type = f"{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                return self._aggregated(parts[0] == "api", version), content_type
            case ["api"]:
                return self._core_versions(), JSON
            case ["apis"]:
                groups = [self._group(group) for group in sorted(self._groups) if group]
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}, JSON
            case ["apis", group] if group in self._groups:
                return {"kind": "APIGroup", "apiVersion": "v1", **self._group(group)}, JSON
            case ["api", version] if version in self._groups.get("", {}):
                return self._resources("", version), JSON
            case ["apis", group, version] if version in self._groups.get(group, {}):
                return self._resources(group, version), JSON
        raise no_such_path()

    def _core_versions(self) -> Object:
        addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": self._server}]
        versions = sorted(self._groups.get("", {}))
        return {"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": addresses}

    def _group(self, group: str) -> dict[str, Any]:
        versions = [{"groupVersion": f"{group}/{v}", "version": v} for v in self._groups[group]]
        return {"name": group, "versions": versions, "preferredVersion": versions[0]}

    def _resources(self, group: str, version: str) -> Object:
        resources = [r for kind in self._groups[group][version] for r in _legacy(kind)]
        group_version = f"{group}/{version}" if group else version
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": resources,
        }

    def _aggregated(self, core: bool, version: str) -> Object:
        groups = [group for group in sorted(self._groups) if (group == "") is core]
        items = [
            {
                "metadata": {"name": group, "creationTimestamp": None}
                if group
                else {"creationTimestamp": None},
                "versions": [
                    {"version": v, "freshness": "Current", "resources": [_aggregate(kind) for kind in kinds]}
                    for v, kinds in self._groups[group].items()
                ],
            }
            for group in groups
        ]
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{version}",
            "metadata": {},
            "items": items,
        }


def aggregated_version(accept: str) -> str | None:
    """The version of the aggregated form that the client prefers to the old one, if any."""
    for media, parameters in media_ranges(accept):
        if parameters.get("as") == "APIGroupDiscoveryList" and parameters.get("v") in AGGREGATED_VERSIONS:
            return parameters["v"]
        if media == JSON and "as" not in parameters:
            return None
    return None


def _legacy(kind: Kind) -> list[dict[str, Any]]:
    resource = kind.resource
    own: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs_of(kind),
    }
    if resource.short_names:
        own["shortNames"] = list(resource.short_names)
    if resource.categories:
        own["categories"] = list(resource.categories)
    found = [own]
    for subresource in sorted(kind.subresources):
        group, version, name = _body(kind, subresource)
        entry: dict[str, Any] = {
            "name": f"{resource.plural}/{subresource}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": name,
            "verbs": verbs_of(kind, subresource),
        }
        if (group, version) != (resource.group, resource.version):
            entry |= {"group": group, "version": version}
        found.append(entry)
    return found


def _aggregate(kind: Kind) -> dict[str, Any]:
    resource = kind.resource
    found: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": _group_kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": verbs_of(kind),
    }
    if resource.short_names:
        found["shortNames"] = list(resource.short_names)
    if resource.categories:
        found["categories"] = list(resource.categories)
    if kind.subresources:
        found["subresources"] = [
            {
                "subresource": subresource,
                "responseKind": _group_kind(*_body(kind, subresource)),
                "verbs": verbs_of(kind, subresource),
            }
            for subresource in sorted(kind.subresources)
        ]
    return found


def _body(kind: Kind, subresource: str) -> tuple[str, str, str]:
    own = (kind.resource.group, kind.resource.version, kind.resource.kind)
    return BODIES.get(subresource, own)


def _group_kind(group: str, version: str, kind: str) -> dict[str, str]:
    return {"group": group, "version": version, "kind": kind}
