"""What each group may do: one table, read top to bottom, and the rules a table cannot say.

A right is (verbs, API group, resources). Rights only add up; nothing denies. `allowed` needs the request
only; `restriction` also looks at the object, because "its own Node" and "pods bound to it" are facts of the
object, as in kube-apiserver's NodeRestriction admission; `unrelated` looks at the pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.auth.authn import User
from controlplane.auth.identities import (
    AUTHENTICATED,
    MASTERS,
    MONITORING,
    NODES,
    PROXIERS,
    RESOLVERS,
    node_of,
)
from netplane.kube.objects import Object, namespace_of
from netplane.kube.references import Reference, references_of
from netplane.kube.resources import CONFIGMAPS, SECRETS, Resource

READ = frozenset({"get", "list", "watch"})
REPORT = frozenset({"create", "update", "patch"})
NODE_LEASES = "kube-node-lease"


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on resources ("pods", "pods/status") of one API group.

    `own`: only the caller's node's object. `used`: only an object that is named and that a pod on the caller's
    node uses; the table asks for the name, `unrelated` for the pod.
    """

    verbs: frozenset[str]
    group: str
    resources: frozenset[str]
    own: bool = False
    used: bool = False


def _right(
    verbs: frozenset[str] | str, group: str, resources: str, *, own: bool = False, used: bool = False
) -> Right:
    words = frozenset(verbs.split()) if isinstance(verbs, str) else verbs
    return Right(words, group, frozenset(resources.split()), own, used)


_REPORT_EVENTS = (_right(REPORT, "", "events"), _right(REPORT, "events.k8s.io", "events"))

RIGHTS: Mapping[str, tuple[Right, ...]] = {
    NODES: (
        _right(READ, "", "nodes pods services endpoints namespaces"),
        _right(READ, "discovery.k8s.io", "endpointslices"),
        _right(READ, "", "configmaps secrets", used=True),
        _right("create", "", "nodes"),
        _right("update patch", "", "nodes nodes/status", own=True),
        _right("update patch", "", "pods/status"),
        _right("delete", "", "pods"),
        _right("get create update patch delete", "coordination.k8s.io", "leases", own=True),
        *_REPORT_EVENTS,
    ),
    PROXIERS: (
        _right(READ, "", "services endpoints nodes namespaces"),
        _right(READ, "discovery.k8s.io", "endpointslices"),
        *_REPORT_EVENTS,
    ),
    RESOLVERS: (
        _right(READ, "", "services endpoints nodes pods namespaces"),
        _right(READ, "discovery.k8s.io", "endpointslices"),
        *_REPORT_EVENTS,
    ),
    AUTHENTICATED: (
        _right("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
        _right("create", "authentication.k8s.io", "selfsubjectreviews"),
    ),
}

PUBLIC_PATHS = frozenset({"/version", "/healthz", "/livez", "/readyz"})
"""Served without a credential, and nothing else is (but joining, which is by token)."""
JOIN_PATH = "/netplane/v1/join"
DISCOVERY_ROOTS = ("/api", "/apis", "/openapi")
METRICS_PATH = "/metrics"


def allowed(
    user: User, verb: str, group: str, resource: str, subresource: str, namespace: str, name: str
) -> bool:
    """Whether the table gives `user` the Kubernetes `verb` on this resource.

    "" stands for: the core group, no subresource, no namespace, no name (list, create). Any object-bound
    condition is `restriction`'s.
    """
    if MASTERS in user.groups:
        return True
    wanted = f"{resource}/{subresource}" if subresource else resource
    node = node_of(user.name, user.groups)
    for member in user.groups:
        for right in RIGHTS.get(member, ()):
            if verb not in right.verbs or group != right.group or wanted not in right.resources:
                continue
            if member == NODES and node is None:
                continue  # a node certificate without a node's name has no node's rights
            if right.used and not (namespace and name):
                continue
            if not right.own or _is_own(node, verb, resource, namespace, name):
                return True
    return False


def _is_own(node: str | None, verb: str, resource: str, namespace: str, name: str) -> bool:
    if node is None or (resource == "leases" and namespace != NODE_LEASES):
        return False
    return name == node or (verb == "create" and not name)  # a create's name is in the body: `restriction`


def allowed_path(user: User | None, verb: str, path: str) -> bool:
    """Whether a request outside any resource is allowed; `user` is None without a credential."""
    bare = path.rstrip("/") or "/"
    if (bare in PUBLIC_PATHS or bare.startswith(("/livez/", "/readyz/"))) and verb in ("get", "head"):
        return True
    if bare == JOIN_PATH and verb in ("post", "create"):
        return True
    if user is None:
        return False
    if MASTERS in user.groups:
        return True
    if verb not in ("get", "head"):
        return False
    if bare == METRICS_PATH:
        return MONITORING in user.groups
    return bare == "/" or any(bare == root or bare.startswith(f"{root}/") for root in DISCOVERY_ROOTS)


def unrelated(user: User, resource: Resource, namespace: str, name: str, pods: Iterable[Object]) -> str:
    """Why a node may not read this ConfigMap or Secret, "" if it may: as kube-apiserver's Node authorizer."""
    node = node_of(user.name, user.groups)
    if node is None or resource not in (CONFIGMAPS, SECRETS) or MASTERS in user.groups:
        return ""
    wanted = Reference(resource, name)
    if any(_runs_on(pod, node, namespace) and wanted in references_of(pod) for pod in pods):
        return ""
    return f"no relationship found between node '{node}' and this object"


def _runs_on(pod: Object, node: str, namespace: str) -> bool:
    return (pod.get("spec") or {}).get("nodeName") == node and namespace_of(pod) == namespace


def restriction(
    user: User, verb: str, group: str, resource: str, subresource: str, obj: Object
) -> str | None:
    """Why an allowed write is refused because of its object, or None.

    Call it with the new object of a create, and with the stored object of an update, patch or delete.
    """
    if MASTERS in user.groups or verb in READ:
        return None
    node = node_of(user.name, user.groups)
    if node is None:
        return None
    metadata = obj.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if (group, resource) in (("", "nodes"), ("coordination.k8s.io", "leases")) and name != node:
        return f'node "{node}" is not allowed to modify {resource.removesuffix("s")} "{name}"'
    if (group, resource) == ("", "pods"):
        spec = obj.get("spec")
        if not isinstance(spec, dict) or spec.get("nodeName") != node:
            what = f"update {subresource} of" if subresource else verb
            return f'node "{node}" can only {what} pods with spec.nodeName set to itself'
    return None
