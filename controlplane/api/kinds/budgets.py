"""PodDisruptionBudget: how many pods of an application must stay while people move them.

Source: Kubernetes `pkg/apis/policy/validation/validation.go`; the status is the disruption controller's.
"""

from __future__ import annotations

from collections.abc import Callable

from controlplane.api.kinds import causes
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.label_selector import selector_causes
from controlplane.api.kinds.metadata import (
    defaulting,
    name_fields,
    validating,
    validating_status,
    with_generation,
)
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.kinds.strategy import share_causes, share_of
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import PODDISRUPTIONBUDGETS

BUDGET = shape_of(PODDISRUPTIONBUDGETS)
LIMITS = ("minAvailable", "maxUnavailable")
UNHEALTHY_POLICIES = ("AlwaysAllow", "IfHealthyBudget")


def _default(budget: Object) -> None:
    budget.setdefault("spec", {})


def _causes(new: Object, _old: Object | None) -> list[Cause]:
    spec = new.get("spec") or {}
    found = []
    if all(spec.get(limit) is not None for limit in LIMITS):
        detail = "minAvailable and maxUnavailable cannot be both set"
        found.append(causes.invalid("spec", {limit: spec[limit] for limit in LIMITS}, detail))
    for limit in LIMITS:
        value, path = spec.get(limit), f"spec.{limit}"
        if value is None:
            continue
        wrong = share_causes(value, path)
        if not wrong and isinstance(value, str) and share_of(value) > 100:
            wrong = [causes.invalid(path, value, "must not be greater than 100%")]
        found += wrong
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None and policy not in UNHEALTHY_POLICIES:
        found.append(causes.not_supported("spec.unhealthyPodEvictionPolicy", policy, UNHEALTHY_POLICIES))
    return found + selector_causes(spec.get("selector") or {}, "spec.selector")


def _limit(field: str) -> Callable[[Object], object]:
    def cell(budget: Object) -> str:
        value = (budget.get("spec") or {}).get(field)
        return "N/A" if value is None else str(value)

    return cell


_create, _update = with_generation()

KIND = Kind(
    resource=PODDISRUPTIONBUDGETS,
    default=defaulting(BUDGET, _default),
    validate=validating(PODDISRUPTIONBUDGETS, BUDGET, _causes),
    columns=(
        NAME,
        Column("Min Available", "string", _limit("minAvailable")),
        Column("Max Unavailable", "string", _limit("maxUnavailable")),
        Column(
            "Allowed Disruptions",
            "integer",
            lambda budget: (budget.get("status") or {}).get("disruptionsAllowed") or 0,
        ),
        AGE,
    ),
    fields=name_fields,
    subresources=frozenset({"status"}),
    prepare_create=_create,
    prepare_update=_update,
    validate_status=validating_status(BUDGET),
)
