"""Namespace. Its name is a DNS label, and a finalizer of its own keeps it until it is empty."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.api.kinds import names
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import (
    defaulting,
    finalizer_causes,
    keep_status,
    preparing,
    validating,
    validating_status,
)
from controlplane.api.kinds.printing import AGE, NAME, text
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, name_of
from netplane.kube.resources import NAMESPACES

NAME_LABEL = "kubernetes.io/metadata.name"
FINALIZER = "kubernetes"

NAMESPACE = shape_of(NAMESPACES)


def _default(namespace: Object) -> None:
    """The label by which selectors find a namespace by name."""
    metadata = namespace.setdefault("metadata", {})
    if metadata.get("name"):
        metadata.setdefault("labels", {})[NAME_LABEL] = metadata["name"]
    namespace.setdefault("spec", {})


def _create(namespace: Object) -> None:
    namespace["status"] = {"phase": "Active"}
    finalizers = namespace["spec"].get("finalizers") or []
    namespace["spec"]["finalizers"] = list(dict.fromkeys([*finalizers, FINALIZER]))


def _update(new: Object, old: Object) -> None:
    """Status and finalizers have doors of their own."""
    keep_status(new, old)
    new["spec"] = {**(new.get("spec") or {}), **(old.get("spec") or {})}


def _causes(new: Object, _old: Object | None) -> list[Cause]:
    return finalizer_causes((new.get("spec") or {}).get("finalizers") or [], "spec.finalizers")


def _phase(namespace: Object) -> str:
    return text((namespace.get("status") or {}).get("phase"), "")


def _fields(namespace: Object) -> Mapping[str, str]:
    return {
        "metadata.name": name_of(namespace),
        "name": name_of(namespace),
        "status.phase": _phase(namespace),
    }


_prepare_create, _prepare_update = preparing(NAMESPACE, _create, _update)

KIND = Kind(
    resource=NAMESPACES,
    default=defaulting(NAMESPACE, _default),
    validate=validating(NAMESPACES, NAMESPACE, _causes, names.dns_label),
    columns=(NAME, Column("Status", "string", _phase, description="The status of the namespace"), AGE),
    fields=_fields,
    subresources=frozenset({"status", "finalize"}),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    validate_status=validating_status(NAMESPACE),
)
