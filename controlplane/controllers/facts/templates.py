"""Pods from templates: what every controller that makes pods puts into them, and what it tells about it."""

from collections.abc import Sequence
from typing import Any

from controlplane.controllers.actions import Action, Create, Delete, Record
from controlplane.controllers.facts.owners import controller_ref
from controlplane.controllers.facts.pods import spec_of
from netplane.kube.errors import StatusError
from netplane.kube.objects import Object, meta, name_of, namespace_of
from netplane.kube.resources import Resource

NAME_ROOM = 58  # a pod's name keeps its owner's name up to here, so that the suffix fits a label


def pod_from_template(resource: Resource, owner: Object, suffix: str) -> Object:
    """A pod from the owner's ``spec.template``, named after the owner. Its spec is the template's own object."""
    template = spec_of(owner).get("template") or {}
    wanted = meta(template)
    metadata: dict[str, Any] = {
        "name": f"{name_of(owner)[:NAME_ROOM]}-{suffix}",
        "generateName": f"{name_of(owner)}-",
        "namespace": namespace_of(owner),
        "labels": dict(wanted.get("labels") or {}),
        "ownerReferences": [controller_ref(resource, owner)],
    }
    for field in ("annotations", "finalizers"):
        if wanted.get(field):
            metadata[field] = wanted[field]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec") or {}}


def told(owner: Object, actions: Sequence[Action]) -> list[Action]:
    """Events about the pods that were created and deleted."""
    reports: list[Action] = []
    for action in actions:
        if isinstance(action, Create):
            text = f"Created pod: {name_of(action.object)}"
            reports.append(Record(owner, "Normal", "SuccessfulCreate", text))
        elif isinstance(action, Delete):
            reports.append(Record(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {action.key.name}"))
    return reports


def refusal(owner: Object, actions: Sequence[Action], failure: StatusError) -> Record:
    """The Event that says which of it the API refused."""
    creating = any(isinstance(action, Create) for action in actions)
    verb, reason = ("creating", "FailedCreate") if creating else ("deleting", "FailedDelete")
    return Record(owner, "Warning", reason, f"Error {verb}: {failure.message}")
