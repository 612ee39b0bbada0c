"""`metav1.LabelSelector`: how workloads say which pods are theirs.

Source: Kubernetes `apimachinery/pkg/apis/meta/v1/validation/validation.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.metadata import label_causes
from controlplane.api.kinds.printing import NONE
from netplane.kube.errors import Cause
from netplane.kube.selectors import Selector


def selector_causes(selector: Mapping[str, Any], path: str) -> list[Cause]:
    """What is wrong with a selector whose types are right."""
    found = label_causes(selector.get("matchLabels") or {}, f"{path}.matchLabels")
    for index, expression in enumerate(selector.get("matchExpressions") or []):
        found += _expression_causes(expression, f"{path}.matchExpressions[{index}]")
    return found


def _expression_causes(expression: Mapping[str, Any], path: str) -> list[Cause]:
    found = []
    operator, values = expression.get("operator") or "", expression.get("values") or []
    if operator in ("In", "NotIn"):
        if not values:
            detail = "must be specified when `operator` is 'In' or 'NotIn'"
            found.append(causes.required(f"{path}.values", detail))
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            found.append(causes.forbidden(f"{path}.values", detail))
    else:
        found.append(causes.invalid(f"{path}.operator", operator, "not a valid selector operator"))
    key = expression.get("key") or ""
    if wrong := names.qualified_name(key):
        found.append(causes.invalid(f"{path}.key", key, wrong))
    found += [
        causes.invalid(f"{path}.values[{index}]", value, wrong)
        for index, value in enumerate(values)
        if (wrong := names.label_value(value))
    ]
    return found


def selector_matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a valid selector selects these labels."""
    return Selector.from_label_selector(selector).matches(labels)


def selector_text(selector: object) -> str:
    """As `kubectl get -o wide` and the scale subresource print it; `<none>` when it selects everything."""
    if not isinstance(selector, Mapping):
        return NONE
    try:
        return str(Selector.from_label_selector(selector)) or NONE
    except (ValueError, AttributeError, TypeError):
        return "<error>"
