"""What the kinds that make pods from a template have in common: its rules and its columns.

Source: Kubernetes `pkg/apis/core/validation/validation.go` (ValidatePodTemplateSpec) and the users of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.api.kinds import causes
from controlplane.api.kinds.kind import Column
from controlplane.api.kinds.label_selector import selector_text
from controlplane.api.kinds.metadata import annotation_causes, label_causes
from controlplane.api.kinds.pod_rules import pod_spec_causes
from netplane.kube.errors import Cause
from netplane.kube.objects import Object

Fields = Mapping[str, Any]

TEMPLATE_PATH = "spec.template"


def template_causes(template: Fields) -> list[Cause]:
    """What is wrong with a pod template whoever uses it."""
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    found = label_causes(metadata.get("labels") or {}, f"{TEMPLATE_PATH}.metadata.labels")
    found += annotation_causes(metadata.get("annotations") or {}, f"{TEMPLATE_PATH}.metadata.annotations")
    return found + pod_spec_causes(spec, f"{TEMPLATE_PATH}.spec")


def lasting_causes(template: Fields, kind: str) -> list[Cause]:
    """What is wrong with the template of a `kind` whose pods are to run for ever."""
    spec = template.get("spec") or {}
    found, policy = [], spec.get("restartPolicy")
    if policy in ("Never", "OnFailure"):
        found.append(causes.not_supported(f"{TEMPLATE_PATH}.spec.restartPolicy", policy, ("Always",)))
    if spec.get("activeDeadlineSeconds") is not None:
        detail = f"activeDeadlineSeconds in {kind} is not Supported"
        found.append(causes.forbidden(f"{TEMPLATE_PATH}.spec.activeDeadlineSeconds", detail))
    return found


def labels_of_template(spec: Fields) -> Mapping[str, str]:
    """`spec.template.metadata.labels`, empty when absent."""
    return ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}


def _containers(field: str) -> Callable[[Object], object]:
    def cell(obj: Object) -> str:
        spec = ((obj.get("spec") or {}).get("template") or {}).get("spec") or {}
        return ",".join(str(container.get(field) or "") for container in spec.get("containers") or [])

    return cell


TEMPLATE_COLUMNS = (
    Column(
        "Containers", "string", _containers("name"), 1, description="Names of each container in the template."
    ),
    Column(
        "Images", "string", _containers("image"), 1, description="Images of each container in the template."
    ),
    Column(
        "Selector",
        "string",
        lambda obj: selector_text((obj.get("spec") or {}).get("selector")),
        1,
        description="The label selector for the pods that count as this one's.",
    ),
)
