"""The life of any object: what the server alone may say in its metadata, and when it is really gone. Pure.

Source: Kubernetes API conventions ("Metadata"), ``apiserver/pkg/registry/rest/{create,update,delete}.go`` and
``registry/generic/registry/store.go``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from netplane.kube.errors import StatusError, bad_request, conflict
from netplane.kube.objects import Object, is_deleting, meta, name_of, rfc3339, uid_of
from netplane.kube.resources import NAMESPACES, PODS, Resource

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
KUBERNETES_FINALIZER = "kubernetes"
DEFAULT_GRACE = 30
SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words
SUFFIX_LENGTH = 5
MAX_GENERATED = 63
_FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete. ``grace`` None leaves it to the object; ``propagation`` is "" where not given."""

    grace: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a delete comes to: the object is removed now, or ``obj`` is written and waits."""

    removed: bool
    obj: Object


def check_identity(resource: Resource, obj: Object, namespace: str, name: str) -> None:
    """The object must be of the kind, namespace and name that the URL says; what it leaves out is filled in.

    Raises StatusError 400.
    """
    for field, want in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        got = obj.setdefault(field, want)
        if got != want:
            text = f"{field} in the data ({got}) does not match the expected {field} ({want})"
            raise bad_request(text)
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    if not isinstance(metadata, dict):
        raise bad_request("metadata: Invalid value: must be an object")
    for field in ("name", "namespace", "generateName", "uid", "resourceVersion"):
        if metadata.get(field) is None:
            metadata.pop(field, None)
        elif not isinstance(metadata[field], str):
            raise bad_request(f"metadata.{field}: Invalid value: must be a string")
    if resource.namespaced:
        got = metadata.setdefault("namespace", namespace) or namespace
        if got != namespace:
            text = "the namespace of the provided object does not match the namespace sent on the request"
            raise bad_request(f"metadata.namespace: {text} ({got} is not {namespace})")
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if name:
        got = metadata.setdefault("name", name)
        if got != name:
            text = f"the name of the object ({got}) does not match the name on the URL ({name})"
            raise bad_request(f"metadata.name: {text}")


def stamp_new(obj: Object, now: datetime, uid: str, suffix: str) -> None:
    """What creation decides: identity and birth, a name where only its beginning is given.

    Raises StatusError 400 for an object that says it exists already, or has no name.
    """
    metadata = obj["metadata"]
    if metadata.get("resourceVersion"):
        raise bad_request(
            "metadata.resourceVersion: resourceVersion should not be set on objects to be created"
        )
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"][: MAX_GENERATED - len(suffix)] + suffix
    if not metadata.get("name"):
        raise bad_request("metadata.name: Required value: name or generateName is required")
    for field in ("selfLink", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(field, None)
    metadata["uid"] = uid
    metadata["creationTimestamp"] = rfc3339(now)


def carry_over(resource: Resource, new: Object, old: Object) -> None:
    """What an update cannot change comes from the old object. Raises StatusError 409 if it is another one."""
    metadata, before = new["metadata"], meta(old)
    check_preconditions(
        resource,
        old,
        DeleteOptions(uid=metadata.get("uid", ""), resource_version=metadata.get("resourceVersion", "")),
    )
    metadata.pop("selfLink", None)
    for field in (
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ):
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)


def check_preconditions(resource: Resource, obj: Object, options: DeleteOptions) -> None:
    """Raises StatusError 409 where the object is not the one, or not the version, that was meant."""
    name = name_of(obj)
    if options.uid and options.uid != uid_of(obj):
        text = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {uid_of(obj)}"
        raise conflict(resource, name, text)
    if options.resource_version and options.resource_version != meta(obj).get("resourceVersion"):
        text = "the object has been modified; please apply your changes to the latest version and try again"
        raise conflict(resource, name, text)


def same(new: Object, old: Object) -> bool:
    """Whether a write changes nothing; what was absent and what is empty metadata are the same."""
    return _significant(new) == _significant(old)


def _significant(obj: Object) -> Object:
    metadata = {k: v for k, v in meta(obj).items() if k != "resourceVersion" and v not in ({}, [], None)}
    return {**obj, "metadata": metadata}


def finished(resource: Resource, obj: Object) -> bool:
    """Whether an object being deleted has nobody left to wait for: grace over, no finalizers."""
    metadata = meta(obj)
    if not is_deleting(obj) or metadata.get("finalizers"):
        return False
    if resource == NAMESPACES and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")


def delete(resource: Resource, obj: Object, options: DeleteOptions, now: datetime) -> Deletion:
    """What deleting this object (a copy, changed in place) comes to. Raises StatusError 409."""
    check_preconditions(resource, obj, options)
    metadata = obj["metadata"]
    set_propagation(metadata, options.propagation)
    grace = _grace(resource, obj, options)
    before = metadata.get("deletionGracePeriodSeconds")
    if not is_deleting(obj):
        _begin(metadata, grace, now)
    elif before is not None and grace < before:
        _begin(metadata, grace, now)  # a second delete may shorten the wait, never lengthen it
    if resource == NAMESPACES:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    return Deletion(finished(resource, obj), obj)


def _begin(metadata: dict[str, Any], grace: int, now: datetime) -> None:
    if "generation" in metadata and "deletionTimestamp" not in metadata:
        metadata["generation"] += 1
    metadata["deletionTimestamp"] = rfc3339(now + timedelta(seconds=grace))
    metadata["deletionGracePeriodSeconds"] = grace


def _grace(resource: Resource, obj: Object, options: DeleteOptions) -> int:
    """Seconds. Only pods are given time, and only where somebody runs them (kubelet ends the wait)."""
    spec = obj.get("spec") or {}
    if resource != PODS or not spec.get("nodeName"):
        return 0
    if (obj.get("status") or {}).get("phase") in _FINISHED:
        return 0
    if options.grace is not None:
        return options.grace
    own = spec.get("terminationGracePeriodSeconds")
    return own if isinstance(own, int) else DEFAULT_GRACE


def set_propagation(metadata: dict[str, Any], propagation: str) -> None:
    """Record, as finalizers for the garbage collector, what is to become of the dependents."""
    if not propagation:
        return
    wanted = {"Foreground": FOREGROUND, "Orphan": ORPHAN}.get(propagation)
    kept = [f for f in metadata.get("finalizers") or [] if f not in (FOREGROUND, ORPHAN)]
    finalizers = [*kept, wanted] if wanted else kept
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)


def delete_options(body: Any, query: Mapping[str, str]) -> DeleteOptions:
    """DeleteOptions from a request's body or its query string. Raises StatusError 400 naming the field."""
    if body is not None and not isinstance(body, dict):
        raise bad_request("the body of a delete must be a DeleteOptions object")
    found: dict[str, Any] = dict(body or {})
    for name in ("gracePeriodSeconds", "propagationPolicy", "orphanDependents"):
        if name in query:
            found[name] = query[name]
    preconditions = found.get("preconditions") or {}
    if not isinstance(preconditions, dict):
        raise bad_request("preconditions: Invalid value: must be an object")
    options = DeleteOptions(
        uid=str(preconditions.get("uid") or ""),
        resource_version=str(preconditions.get("resourceVersion") or ""),
    )
    options = replace(options, propagation=_propagation(found))
    grace = found.get("gracePeriodSeconds")
    if grace is None:
        return options
    if isinstance(grace, bool) or not re.fullmatch(r"\d+", str(grace)):
        raise bad_request(f'gracePeriodSeconds: Invalid value: "{grace}": must be a whole number, 0 or more')
    return replace(options, grace=int(grace))


def _propagation(found: Mapping[str, Any]) -> str:
    policy, orphan = found.get("propagationPolicy") or "", found.get("orphanDependents")
    if orphan is not None:
        if policy:
            raise bad_request("propagationPolicy: Invalid value: orphanDependents is given as well")
        return "Orphan" if str(orphan).lower() == "true" else "Background"
    if policy not in ("", "Foreground", "Background", "Orphan"):
        text = "must be Foreground, Background or Orphan"
        raise bad_request(f'propagationPolicy: Unsupported value: "{policy}": {text}')
    return str(policy)


def terminating(namespace: Object) -> bool:
    """Whether nothing new may be made in this namespace."""
    return is_deleting(namespace) or (namespace.get("status") or {}).get("phase") == "Terminating"


def cannot_create_in(resource: Resource, name: str, namespace: str) -> StatusError:
    """403 with the cause that kubectl and the controllers look for."""
    text = f"unable to create new content in namespace {namespace} because it is being terminated"
    message = f'{resource.qualified} "{name}" is forbidden: {text}'
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {namespace} is being terminated",
        "field": "metadata.namespace",
    }
    details: dict[str, Any] = {"name": name, "kind": resource.plural, "causes": [cause]}
    if resource.group:
        details["group"] = resource.group
    return StatusError(403, "Forbidden", message, details)
