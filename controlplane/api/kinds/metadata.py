"""What every object has: its metadata, and how a kind is put together from shape, defaults and rules.

Source: Kubernetes `apimachinery/pkg/api/validation/objectmeta.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.shapes import (
    Shape,
    drop_nulls,
    type_errors,
)
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import Resource

ANNOTATIONS_MOST = 256 * 1024
STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
IMMUTABLE_METADATA = ("name", "namespace", "uid", "creationTimestamp")

Rules = Callable[[Object, Object | None], list[Cause]]


def defaulting(shape: Shape, default: Callable[[Object], None]) -> Callable[[Object], None]:
    """`default` for objects whose known fields have the right types; others are left for `validate` to name."""

    def apply(obj: Object) -> None:
        drop_nulls(shape, obj)
        if not type_errors(shape, obj):
            default(obj)

    return apply


def preparing(
    shape: Shape, create: Callable[[Object], None], update: Callable[[Object, Object], None]
) -> tuple[Callable[[Object], None], Callable[[Object, Object], None]]:
    """(prepare_create, prepare_update) for objects whose types are right; others will not pass `validate`."""

    def guarded_create(obj: Object) -> None:
        if not type_errors(shape, obj):
            create(obj)

    def guarded_update(new: Object, old: Object) -> None:
        if not type_errors(shape, new):
            update(new, old)

    return guarded_create, guarded_update


def validating(
    resource: Resource, shape: Shape, rules: Rules, name: names.Check = names.dns_subdomain
) -> Rules:
    """Types first, as nothing else can be said before; then the metadata's rules, then the kind's own."""

    def apply(new: Object, old: Object | None) -> list[Cause]:
        return type_errors(shape, new) or [*metadata_causes(resource, new, old, name), *rules(new, old)]

    return apply


def validating_status(shape: Shape) -> Callable[[Object, Object], list[Cause]]:
    """A status may say what its writer wants, in the right types."""

    def apply(new: Object, _old: Object) -> list[Cause]:
        return type_errors(shape, new)

    return apply


def with_generation(
    *, status: bool = True
) -> tuple[Callable[[Object], None], Callable[[Object, Object], None]]:
    """(prepare_create, prepare_update) of a kind whose generation counts changes of its spec."""

    def create(obj: Object) -> None:
        if status:
            obj.pop("status", None)
        metadata = obj.get("metadata")
        if isinstance(metadata, dict):
            metadata["generation"] = 1

    def update(new: Object, old: Object) -> None:
        if status:
            keep_status(new, old)
        metadata = new.get("metadata")
        if isinstance(metadata, dict):
            generation = (old.get("metadata") or {}).get("generation") or 1
            metadata["generation"] = generation + (new.get("spec") != old.get("spec"))

    return create, update


def name_fields(obj: Object) -> Mapping[str, str]:
    """The `fields` of a namespaced kind that is selected by what every object has."""
    return {"metadata.name": name_of(obj), "metadata.namespace": namespace_of(obj)}


def keep_status(new: Object, old: Object) -> None:
    """In place: a write to the object itself never changes its status."""
    if "status" in old:
        new["status"] = old["status"]
    else:
        new.pop("status", None)


def metadata_causes(resource: Resource, new: Object, old: Object | None, check: names.Check) -> list[Cause]:
    """Everything wrong with the metadata of an object whose types are right."""
    metadata = new.get("metadata") or {}
    found = _identity_causes(resource, metadata, check)
    found += label_causes(metadata.get("labels") or {}, "metadata.labels")
    found += annotation_causes(metadata.get("annotations") or {}, "metadata.annotations")
    found += _owner_causes(metadata.get("ownerReferences") or [])
    finalizers = metadata.get("finalizers") or []
    found += finalizer_causes(finalizers, "metadata.finalizers")
    if {"orphan", "foregroundDeletion"} <= set(finalizers):
        detail = "finalizer orphan and foregroundDeletion cannot be both set"
        found.append(causes.invalid("metadata.finalizers", finalizers, detail))
    if old is not None:
        found += _immutable_causes(metadata, old.get("metadata") or {})
    return found


def finalizer_causes(finalizers: Iterable[str], path: str) -> list[Cause]:
    """A finalizer is one of the API's own or has its owner's domain in front."""
    found = []
    for index, finalizer in enumerate(finalizers):
        if wrong := names.qualified_name(finalizer):
            found.append(causes.invalid(f"{path}[{index}]", finalizer, wrong))
        elif "/" not in finalizer and finalizer not in STANDARD_FINALIZERS:
            detail = "name is neither a standard finalizer name nor is it fully qualified"
            found.append(causes.invalid(f"{path}[{index}]", finalizer, detail))
    return found


def _identity_causes(resource: Resource, metadata: Mapping[str, Any], check: names.Check) -> list[Cause]:
    found = []
    name = metadata.get("name") or ""
    if not name:
        found.append(causes.required("metadata.name", "name or generateName is required"))
    elif wrong := check(name):
        found.append(causes.invalid("metadata.name", name, wrong))
    namespace = metadata.get("namespace") or ""
    if not resource.namespaced and namespace:
        found.append(causes.forbidden("metadata.namespace", "not allowed on this type"))
    elif resource.namespaced and not namespace:
        found.append(causes.required("metadata.namespace"))
    elif resource.namespaced and (wrong := names.dns_label(namespace)):
        found.append(causes.invalid("metadata.namespace", namespace, wrong))
    return found


def _immutable_causes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Cause]:
    found = [
        causes.invalid(f"metadata.{field}", new.get(field), causes.IMMUTABLE)
        for field in IMMUTABLE_METADATA
        if old.get(field) and new.get(field) != old[field]
    ]
    late = sorted(set(new.get("finalizers") or []) - set(old.get("finalizers") or []))
    if old.get("deletionTimestamp") and late:
        shown = ", ".join(f'"{finalizer}"' for finalizer in late)
        detail = "no new finalizers can be added if the object is being deleted, found new finalizers "
        found.append(causes.forbidden("metadata.finalizers", f"{detail}[]string{{{shown}}}"))
    return found


def label_causes(labels: Mapping[str, str], path: str) -> list[Cause]:
    """What is wrong with a map of labels."""
    found = []
    for key, value in labels.items():
        if wrong := names.qualified_name(key):
            found.append(causes.invalid(path, key, wrong))
        if wrong := names.label_value(value):
            found.append(causes.invalid(path, value, wrong))
    return found


def annotation_causes(annotations: Mapping[str, str], path: str) -> list[Cause]:
    """What is wrong with a map of annotations."""
    found = [
        causes.invalid(path, key, wrong)
        for key in annotations
        if (wrong := names.qualified_name(key.lower()))
    ]
    size = sum(len(f"{key}{value}".encode("utf-8", "surrogatepass")) for key, value in annotations.items())
    return [*found, causes.too_long(path, ANNOTATIONS_MOST)] if size > ANNOTATIONS_MOST else found


def _owner_causes(owners: Iterable[Mapping[str, Any]]) -> list[Cause]:
    found = []
    controllers = []
    for index, owner in enumerate(owners):
        path = f"metadata.ownerReferences[{index}]"
        found += [
            causes.invalid(f"{path}.{field}", owner.get(field) or "", "must not be empty")
            for field in ("apiVersion", "kind", "name", "uid")
            if not owner.get(field)
        ]
        if owner.get("controller"):
            controllers.append(owner.get("name"))
    if len(controllers) > 1:
        detail = 'Only one reference can have Controller set to true. Found "true" in references for '
        listed = " and ".join(str(name) for name in controllers)
        found.append(causes.invalid("metadata.ownerReferences", controllers, detail + listed))
    return found
