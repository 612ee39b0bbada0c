"""ReplicaSet and Deployment: a template, a number, and how to get from one template to the next.

Source: Kubernetes `pkg/apis/apps/v1/defaults.go` and `pkg/apis/apps/validation/validation.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.api.kinds import causes
from controlplane.api.kinds.container_rules import NEGATIVE
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.label_selector import (
    selector_causes,
    selector_matches,
)
from controlplane.api.kinds.metadata import (
    defaulting,
    name_fields,
    validating,
    validating_status,
    with_generation,
)
from controlplane.api.kinds.placement_rules import template_warnings
from controlplane.api.kinds.pod_defaults import default_template
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.kinds.strategy import QUARTER, ROLLING, strategy_causes
from controlplane.api.kinds.templates import TEMPLATE_COLUMNS, lasting_causes, template_causes
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import DEPLOYMENTS, REPLICASETS

Fields = Mapping[str, Any]

REVISIONS = 10
DEADLINE_SECONDS = 600

REPLICASET = shape_of(REPLICASETS)
DEPLOYMENT = shape_of(DEPLOYMENTS)


def _default_replicaset(workload: Object) -> None:
    spec = workload.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    if spec.get("template") is not None:
        default_template(spec["template"])


def _default_deployment(deployment: Object) -> None:
    _default_replicaset(deployment)
    spec = deployment["spec"]
    strategy = spec.setdefault("strategy", {})
    if not strategy.get("type"):
        strategy["type"] = ROLLING
    if strategy["type"] == ROLLING:
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", QUARTER)
        rolling.setdefault("maxSurge", QUARTER)
    spec.setdefault("revisionHistoryLimit", REVISIONS)
    spec.setdefault("progressDeadlineSeconds", DEADLINE_SECONDS)


def _replicaset_causes(new: Object, old: Object | None) -> list[Cause]:
    """What both kinds may say wrong: the numbers, the selector, the template, and that they belong together."""
    spec = new.get("spec") or {}
    found = _numbers(spec, ("replicas", "minReadySeconds"))
    found += _selector_causes(spec)
    found += _template_causes(spec.get("template"))
    if old is not None and (old.get("spec") or {}).get("selector") != spec.get("selector"):
        found.append(causes.invalid("spec.selector", spec.get("selector"), causes.IMMUTABLE))
    return found


def _deployment_causes(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec") or {}
    found = _replicaset_causes(new, old)
    found += strategy_causes(spec.get("strategy") or {})
    found += _numbers(spec, ("revisionHistoryLimit", "progressDeadlineSeconds"))
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and 0 <= deadline <= (spec.get("minReadySeconds") or 0):
        detail = "must be greater than minReadySeconds"
        found.append(causes.invalid("spec.progressDeadlineSeconds", deadline, detail))
    return found


def _numbers(spec: Fields, fields: tuple[str, ...]) -> list[Cause]:
    return [
        causes.invalid(f"spec.{field}", spec[field], NEGATIVE)
        for field in fields
        if (spec.get(field) or 0) < 0
    ]


def _selector_causes(spec: Fields) -> list[Cause]:
    selector = spec.get("selector")
    if selector is None:
        return [causes.required("spec.selector")]
    found = selector_causes(selector, "spec.selector")
    if found:
        return found
    if not (selector.get("matchLabels") or selector.get("matchExpressions")):
        detail = "empty selector is invalid for deployment"
        return [causes.invalid("spec.selector", selector, detail)]
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if spec.get("template") is not None and not selector_matches(selector, labels):
        detail = "`selector` does not match template `labels`"
        return [causes.invalid("spec.template.metadata.labels", labels, detail)]
    return []


def _template_causes(template: Fields | None) -> list[Cause]:
    if template is None:
        return [causes.required("spec.template")]
    return [*template_causes(template), *lasting_causes(template, "ReplicaSet")]


def _replicaset_fields(obj: Object) -> Mapping[str, str]:
    return {**name_fields(obj), "status.replicas": str((obj.get("status") or {}).get("replicas") or 0)}


def _count(section: str, field: str) -> Callable[[Object], object]:
    return lambda obj: (obj.get(section) or {}).get(field) or 0


def _ready(obj: Object) -> str:
    return f"{_count('status', 'readyReplicas')(obj)}/{_count('spec', 'replicas')(obj)}"


_create, _update = with_generation()

REPLICASET_KIND = Kind(
    resource=REPLICASETS,
    default=defaulting(REPLICASET, _default_replicaset),
    validate=validating(REPLICASETS, REPLICASET, _replicaset_causes),
    columns=(
        NAME,
        Column("Desired", "integer", _count("spec", "replicas")),
        Column("Current", "integer", _count("status", "replicas")),
        Column("Ready", "integer", _count("status", "readyReplicas")),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
    fields=_replicaset_fields,
    subresources=frozenset({"status", "scale"}),
    prepare_create=_create,
    prepare_update=_update,
    validate_status=validating_status(REPLICASET),
    warnings=template_warnings,
)

DEPLOYMENT_KIND = Kind(
    resource=DEPLOYMENTS,
    default=defaulting(DEPLOYMENT, _default_deployment),
    validate=validating(DEPLOYMENTS, DEPLOYMENT, _deployment_causes),
    columns=(
        NAME,
        Column("Ready", "string", _ready, description="Number of the pod with ready state"),
        Column("Up-to-date", "integer", _count("status", "updatedReplicas")),
        Column("Available", "integer", _count("status", "availableReplicas")),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
    fields=name_fields,
    subresources=frozenset({"status", "scale"}),
    prepare_create=_create,
    prepare_update=_update,
    validate_status=validating_status(DEPLOYMENT),
    warnings=template_warnings,
)
