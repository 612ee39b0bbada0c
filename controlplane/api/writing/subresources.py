"""The parts of objects that have a door of their own: scale, binding, finalize.

Evictions have a room of their own (`evictions`). ``status`` is not here either: it is an ordinary update that the
Kind prepares differently (`writes.update`).
Source: Kubernetes API conventions, "Subresources"; ``registry/core/pod/storage``, ``registry/apps/*/storage``.
"""

from dataclasses import replace
from typing import Any

from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.listed import listed_kind
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.memory.records import Record
from controlplane.api.writing import lifecycle, patch
from controlplane.api.writing.transactions import Act, Decision, transact
from controlplane.api.writing.writes import Machinery, Order, check_user, update
from netplane.kube.errors import Cause, bad_request, conflict, invalid, not_found
from netplane.kube.objects import Object, is_deleting, labels_of, meta, name_of, rfc3339, set_condition
from netplane.kube.resources import NAMESPACES, PODS, Resource
from netplane.kube.selectors import Selector

SCALE = ("autoscaling/v1", "Scale")


SCALE_KIND = replace(
    listed_kind(Resource("autoscaling", "v1", "scales", "Scale")),
    columns=(
        NAME,
        Column("Desired", "integer", lambda scale: (scale.get("spec") or {}).get("replicas") or 0),
        Column("Available", "integer", lambda scale: (scale.get("status") or {}).get("replicas") or 0),
        AGE,
    ),
)
"""What a Scale looks like when it is printed; it is made of the object it scales, and never stored."""


def scale_of(kind: Kind, obj: Object) -> Object:
    """The ``autoscaling/v1`` Scale of a Deployment or ReplicaSet."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    selector = Selector.from_label_selector(spec.get("selector") or {"matchLabels": labels_of(obj)})
    metadata = meta(obj)
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": SCALE[1],
        "apiVersion": SCALE[0],
        "metadata": {field: metadata[field] for field in kept if field in metadata},
        "spec": {"replicas": spec.get("replicas", 0)},
        "status": {"replicas": status.get("replicas", 0), "selector": str(selector)},
    }


def _mapping(obj: Object, field: str) -> dict[str, Any]:
    """A field that is an object, empty when absent. Raises StatusError 400 for anything else."""
    found = obj.get(field)
    if found is not None and not isinstance(found, dict):
        raise bad_request(f"{field}: Invalid value: must be an object")
    return found or {}


async def write_scale(machinery: Machinery, order: Order, content_type: str, body: Any) -> Object:
    """PUT or PATCH a Scale: only ``spec.replicas`` counts. Raises StatusError."""

    def change(record: Record) -> Object:
        scale = scale_of(order.kind, record.obj)
        wanted = body if content_type == "application/json" else patch.apply(content_type, scale, body)
        replicas = _replicas(order, wanted)
        obj = record.copy()
        obj["metadata"]["resourceVersion"] = str(_mapping(wanted, "metadata").get("resourceVersion") or "")
        obj["spec"]["replicas"] = replicas
        return obj

    return scale_of(order.kind, await update(machinery, order, change))


def _replicas(order: Order, scale: Any) -> int:
    if not isinstance(scale, dict) or (scale.get("apiVersion"), scale.get("kind")) != SCALE:
        raise bad_request("the body must be a Scale of autoscaling/v1")
    replicas = _mapping(scale, "spec").get("replicas", 0)
    if type(replicas) is not int or replicas < 0:
        text = f"Invalid value: {replicas!r}: must be a whole number, 0 or more"
        raise invalid(order.resource, order.route.name, [Cause("spec.replicas", text)])
    return replicas


async def bind(machinery: Machinery, order: Order, binding: Object) -> Object:
    """POST a Binding: the pod gets its node, once. Raises StatusError 409 if it has one."""
    route = order.route
    node = _mapping(binding, "target").get("name")
    if not isinstance(node, str) or not node:
        cause = Cause("target.name", "Required value: the node to bind the pod to", "FieldValueRequired")
        raise invalid(PODS, route.name, [cause])
    sent = _mapping(binding, "metadata")
    annotations = _mapping(sent, "annotations")

    def decide(record: Record | None) -> Decision:
        if record is None:
            raise not_found(PODS, route.name)
        pod = record.copy()
        check_user(order, pod)
        lifecycle.check_preconditions(PODS, pod, lifecycle.DeleteOptions(uid=str(sent.get("uid") or "")))
        if is_deleting(pod):
            raise conflict(
                PODS, route.name, f"pod {route.name} is being deleted, cannot be assigned to a host"
            )
        if bound := pod["spec"].get("nodeName"):
            raise conflict(PODS, route.name, f"pod {route.name} is already assigned to node {bound}")
        pod["spec"]["nodeName"] = node
        if annotations:
            pod["metadata"]["annotations"] = {**(meta(pod).get("annotations") or {}), **annotations}
        status = pod.setdefault("status", {})
        now = rfc3339(machinery.clock())
        old = status.get("conditions") or []
        status["conditions"] = set_condition(old, "PodScheduled", "True", "", "", now)
        return Decision(Act.PUT, pod)

    hub = machinery.hub
    await transact(hub, order.kind, route.namespace, route.name, decide, dry_run=order.dry_run)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


async def finalize(machinery: Machinery, order: Order, namespace: Object) -> Object:
    """PUT a Namespace's ``spec.finalizers``: without the last one a deleted namespace is gone."""
    lifecycle.check_identity(NAMESPACES, namespace, "", order.route.name)
    finalizers = _mapping(namespace, "spec").get("finalizers") or []
    if not isinstance(finalizers, list) or not all(isinstance(item, str) for item in finalizers):
        cause = Cause("spec.finalizers", "Invalid value: must be a list of strings")
        raise invalid(NAMESPACES, name_of(namespace), [cause])

    def decide(record: Record | None) -> Decision:
        if record is None:
            raise not_found(NAMESPACES, order.route.name)
        obj, sent = record.copy(), meta(namespace)
        version = str(sent.get("resourceVersion") or "")
        meant = lifecycle.DeleteOptions(uid=str(sent.get("uid") or ""), resource_version=version)
        lifecycle.check_preconditions(NAMESPACES, obj, meant)
        obj["spec"] = {**(obj.get("spec") or {}), "finalizers": finalizers}
        if lifecycle.finished(NAMESPACES, obj):
            return Decision(Act.REMOVE, obj)
        return Decision(Act.KEEP if lifecycle.same(obj, record.obj) else Act.PUT, obj)

    name, hub = order.route.name, machinery.hub
    return (await transact(hub, order.kind, "", name, decide, dry_run=order.dry_run)).obj
