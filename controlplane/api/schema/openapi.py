"""``/openapi/v3``: the document of each group-version that kubectl needs to apply, create, explain and edit. Pure.

The schemas are the published ones; the paths and operations are made from the kinds that are served.
Source: Kubernetes API concepts ("OpenAPI V3"), ``kube-openapi/pkg/handler3``.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from controlplane.api.discovery import BODIES, VERSION
from controlplane.api.kinds.kind import Kind
from controlplane.api.reading.represent import JSON
from controlplane.api.requests.route import verbs_of
from controlplane.api.schema.build import META, references
from controlplane.api.schema.data import definition_name, definitions
from netplane.kube.errors import no_such_path

ROOT = "/openapi/v3"
PATCH_TYPES = (
    "application/apply-patch+yaml",
    JSON,
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
STREAMS = frozenset({"log", "exec", "attach", "portforward", "proxy"})
_METHODS = {
    "get": "get",
    "list": "get",
    "create": "post",
    "update": "put",
    "patch": "patch",
    "delete": "delete",
    "deletecollection": "delete",
}
_ACTIONS = {"create": "post", "update": "put"}
_ON_COLLECTION = frozenset({"list", "create", "deletecollection"})
_QUERY: Mapping[str, tuple[str, str]] = {
    "allowWatchBookmarks": ("boolean", "asks for BOOKMARK events that only carry a resourceVersion"),
    "continue": ("string", "where the previous page of a list ended"),
    "dryRun": ("string", "All: everything is checked, nothing is stored"),
    "fieldManager": ("string", "the name of the actor that makes this change"),
    "fieldSelector": ("string", "restricts the objects by their fields"),
    "fieldValidation": ("string", "Ignore, Warn or Strict: what becomes of unknown and duplicate fields"),
    "force": ("boolean", "an apply takes over the fields that others own"),
    "gracePeriodSeconds": ("integer", "how long the object may take to end; 0 is at once"),
    "labelSelector": ("string", "restricts the objects by their labels"),
    "limit": ("integer", "the most objects of one page"),
    "orphanDependents": ("boolean", "deprecated: use propagationPolicy"),
    "propagationPolicy": ("string", "Orphan, Background or Foreground: what becomes of the dependents"),
    "resourceVersion": ("string", "how new the answer must be"),
    "resourceVersionMatch": ("string", "NotOlderThan or Exact"),
    "sendInitialEvents": ("boolean", "a watch begins with what is there"),
    "timeoutSeconds": ("integer", "how long a list or watch may take"),
    "watch": ("boolean", "changes as they come, instead of a list"),
}
_LIST = (
    "allowWatchBookmarks continue fieldSelector labelSelector limit resourceVersion resourceVersionMatch "
    "sendInitialEvents timeoutSeconds watch"
)
_PARAMETERS = {
    "get": "",
    "list": _LIST,
    "create": "dryRun fieldManager fieldValidation",
    "update": "dryRun fieldManager fieldValidation",
    "patch": "dryRun fieldManager fieldValidation force",
    "delete": "dryRun gracePeriodSeconds orphanDependents propagationPolicy",
    "deletecollection": f"{_LIST} dryRun gracePeriodSeconds orphanDependents propagationPolicy",
}


@dataclass(frozen=True, slots=True)
class Document:
    """One encoded document and the hash that names this version of it."""

    body: bytes
    hash: str


class OpenApi:
    """The documents for a set of kinds, which does not change while the server runs; made when asked for."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._groups: dict[str, list[Kind]] = {}
        self._made: dict[str, Document] = {}
        for kind in sorted(kinds, key=lambda kind: kind.resource.plural):
            self._groups.setdefault(kind.resource.root.strip("/"), []).append(kind)

    def answer(self, path: str) -> Document:
        """The index or a group-version's document. Raises StatusError 404, ConfigError without the data."""
        name = path.removeprefix(ROOT).strip("/")
        if name and name not in self._groups:
            raise no_such_path()
        if name not in self._made:
            body = orjson.dumps(self._document(name) if name else self._index())
            self._made[name] = Document(body, hashlib.sha256(body).hexdigest().upper())
        return self._made[name]

    def _index(self) -> dict[str, Any]:
        paths = {
            name: {"serverRelativeURL": f"{ROOT}/{name}?hash={self.answer(f'{ROOT}/{name}').hash}"}
            for name in sorted(self._groups)
        }
        return {"paths": paths}

    def _document(self, name: str) -> dict[str, Any]:
        kinds = self._groups[name]
        paths: dict[str, Any] = {}
        for kind in kinds:
            _add_paths(paths, kind)
        return {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
            "paths": paths,
            "components": {"schemas": _components(paths)},
        }


def _components(paths: Mapping[str, Any]) -> dict[str, Any]:
    wanted, found = set(references(paths)), {}
    while wanted:
        name = wanted.pop()
        found[name] = definitions()[name]
        wanted |= set(references(found[name])) - found.keys()
    return dict(sorted(found.items()))


def _add_paths(paths: dict[str, Any], kind: Kind) -> None:
    resource = kind.resource
    root = f"{resource.root}/namespaces/{{namespace}}" if resource.namespaced else resource.root
    collection = f"{root}/{resource.plural}"
    verbs = [verb for verb in verbs_of(kind) if verb != "watch"]
    body = (resource.group, resource.version, resource.kind)
    if "list" in verbs and resource.namespaced:
        paths[f"{resource.root}/{resource.plural}"] = _path(["list"], body, False, False)
    on_collection = [verb for verb in verbs if verb in _ON_COLLECTION]
    on_object = [verb for verb in verbs if verb not in _ON_COLLECTION]
    if on_collection:
        paths[collection] = _path(on_collection, body, resource.namespaced, False)
    if on_object:
        paths[f"{collection}/{{name}}"] = _path(on_object, body, resource.namespaced, True)
    for subresource in sorted(kind.subresources):
        inner = None if subresource in STREAMS else BODIES.get(subresource, body)
        found = _path(sorted(set(verbs_of(kind, subresource))), inner, resource.namespaced, True)
        paths[f"{collection}/{{name}}/{subresource}"] = found


def _path(
    verbs: Iterable[str], body: tuple[str, str, str] | None, namespaced: bool, named: bool
) -> dict[str, Any]:
    found: dict[str, Any] = {_METHODS[verb]: _operation(verb, body) for verb in verbs if verb in _METHODS}
    places = [*(["namespace"] if namespaced else []), *(["name"] if named else [])]
    if places:
        found["parameters"] = [
            {"name": place, "in": "path", "required": True, "schema": {"type": "string", "uniqueItems": True}}
            for place in places
        ]
    return found


def _operation(verb: str, body: tuple[str, str, str] | None) -> dict[str, Any]:
    schema = _schema(body)
    operation: dict[str, Any] = {
        "parameters": [_parameter(name) for name in _PARAMETERS[verb].split()],
        "responses": {
            "201" if verb == "create" else "200": {
                "description": "OK",
                "content": {JSON if body else "text/plain": {"schema": schema}},
            },
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": _ACTIONS.get(verb, verb),
    }
    if verb in ("create", "update"):
        operation["requestBody"] = {"content": {JSON: {"schema": schema}}, "required": True}
    elif verb == "patch":
        patch = {"schema": {"$ref": f"#/components/schemas/{META}Patch"}}
        operation["requestBody"] = {"content": dict.fromkeys(PATCH_TYPES, patch), "required": True}
    elif verb in ("delete", "deletecollection"):
        options = {"schema": {"$ref": f"#/components/schemas/{META}DeleteOptions"}}
        operation["requestBody"] = {"content": {JSON: options}}
    if body:
        group, version, kind = body
        operation["x-kubernetes-group-version-kind"] = {"group": group, "version": version, "kind": kind}
    return operation


def _schema(body: tuple[str, str, str] | None) -> dict[str, Any]:
    if body is None:
        return {"type": "string"}
    name = definition_name(*body)
    return {"$ref": f"#/components/schemas/{name}"} if name in definitions() else {"type": "object"}


def _parameter(name: str) -> dict[str, Any]:
    kind, description = _QUERY[name]
    schema = {"type": kind, "uniqueItems": True}
    return {"name": name, "in": "query", "description": description, "schema": schema}
