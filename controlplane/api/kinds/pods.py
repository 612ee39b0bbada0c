"""Pod."""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.api.kinds import pod_printing
from controlplane.api.kinds.kind import Kind
from controlplane.api.kinds.metadata import (
    defaulting,
    keep_status,
    validating,
    validating_status,
)
from controlplane.api.kinds.placement_rules import pod_warnings
from controlplane.api.kinds.pod_defaults import default_pod, qos_class
from controlplane.api.kinds.pod_rules import pod_causes
from controlplane.api.kinds.shapes import type_errors
from controlplane.api.schema.published import shape_of, struct
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import PODS

POD = shape_of(PODS)
POD_SPEC = struct("core.v1.PodSpec")


def _create(pod: Object) -> None:
    """A new pod waits for its node; who creates it does not say how it is."""
    pod["status"] = {"phase": "Pending"}
    spec = pod.get("spec")
    if isinstance(spec, dict) and not type_errors(POD_SPEC, spec):
        pod["status"]["qosClass"] = qos_class(spec)


def _fields(pod: Object) -> Mapping[str, str]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    return {
        "metadata.name": name_of(pod),
        "metadata.namespace": namespace_of(pod),
        "spec.nodeName": spec.get("nodeName") or "",
        "spec.restartPolicy": spec.get("restartPolicy") or "",
        "spec.schedulerName": spec.get("schedulerName") or "",
        "spec.serviceAccountName": spec.get("serviceAccountName") or "",
        "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
        "status.phase": status.get("phase") or "",
        "status.podIP": status.get("podIP") or "",
        "status.nominatedNodeName": status.get("nominatedNodeName") or "",
    }


KIND = Kind(
    resource=PODS,
    default=defaulting(POD, default_pod),
    validate=validating(PODS, POD, pod_causes),
    columns=pod_printing.COLUMNS,
    fields=_fields,
    subresources=frozenset({"status", "binding", "eviction", "log", "exec", "attach", "portforward"}),
    prepare_create=_create,
    prepare_update=keep_status,
    validate_status=validating_status(POD),
    warnings=pod_warnings,
)
