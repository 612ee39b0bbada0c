"""Which resource, object and verb a request means: pure, so that authorization and the verbs agree.

Source: Kubernetes API concepts ("Resource URIs", "API verbs") and kube-apiserver's ``request/requestinfo.go``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from controlplane.api.kinds.kind import Kind
from netplane.kube.errors import method_not_allowed, no_such_path, not_served

Catalog = Mapping[tuple[str, str, str], Kind]

_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT_VERBS = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_SUBRESOURCE_VERBS = {
    "status": {"GET": "get", "PUT": "update", "PATCH": "patch"},
    "scale": {"GET": "get", "PUT": "update", "PATCH": "patch"},
    "binding": {"POST": "create"},
    "eviction": {"POST": "create"},
    "token": {"POST": "create"},
    "finalize": {"PUT": "update"},
    "log": {"GET": "get"},
    **{name: {"GET": "get", "POST": "create"} for name in ("exec", "attach", "portforward")},
}


@dataclass(frozen=True, slots=True)
class Route:
    """A request on a resource. ``namespace`` is "" across all namespaces and for cluster-scoped kinds."""

    kind: Kind
    verb: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def stored(self) -> "Route":
        """The same by the name under which the objects are stored."""
        view = self.kind.view
        return self if view is None else replace(self, kind=view.kind)


def catalog(kinds: Iterable[Kind]) -> Catalog:
    """The kinds by group, version and plural."""
    return {(k.resource.group, k.resource.version, k.resource.plural): k for k in kinds}


def find(kinds: Catalog, method: str, path: str, *, watch: bool = False) -> Route:
    """Read a request's method and path. Raises StatusError 404 or 405."""
    parts = [part for part in path.split("/") if part]
    match parts:
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            raise no_such_path()
    namespace, (plural, *tail) = _namespace(rest)
    kind = kinds.get((group, version, plural))
    if kind is None or len(tail) > 2 or (namespace and not kind.resource.namespaced):
        raise no_such_path()
    name = tail[0] if tail else ""
    subresource = tail[1] if len(tail) == 2 else ""
    if name and kind.resource.namespaced and not namespace:
        raise no_such_path()
    return Route(kind, _verb(kind, method, namespace, name, subresource, watch), namespace, name, subresource)


def _namespace(rest: list[str]) -> tuple[str, list[str]]:
    """Split ``namespaces/x/pods/...``; ``namespaces/x[/status]`` itself is the cluster-scoped kind."""
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        return rest[1], rest[2:]
    return "", rest


def _verb(kind: Kind, method: str, namespace: str, name: str, subresource: str, watch: bool) -> str:
    if subresource:
        if subresource not in kind.subresources:
            raise no_such_path()
        verbs: Mapping[str, str] = _SUBRESOURCE_VERBS.get(subresource, {})
    else:
        verbs = _OBJECT_VERBS if name else _COLLECTION_VERBS
    verb = verbs.get("GET" if method == "HEAD" else method)
    if kind.ask is not None and verb is not None and verb != "create":
        raise method_not_allowed()
    if kind.ask is None and not kind.stored and verb in ("create", "update", "patch"):
        raise not_served(kind.resource)
    across = kind.resource.namespaced and not namespace
    if verb is None or (across and verb not in ("list", "watch")):
        raise method_not_allowed()
    if watch and verb in ("get", "list") and not subresource:
        return "watch"
    return verb


def verbs_of(kind: Kind, subresource: str = "") -> list[str]:
    """The verbs that discovery lists for a resource or one of its subresources."""
    if subresource:
        return sorted(_SUBRESOURCE_VERBS.get(subresource, {}).values())
    if kind.ask is not None:
        return ["create"]
    if not kind.stored:
        return ["get", "list", "watch"]
    return sorted({*_COLLECTION_VERBS.values(), *_OBJECT_VERBS.values(), "watch"})
