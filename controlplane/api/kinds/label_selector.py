"""`metav1.LabelSelector`: how workloads say which pods are theirs.

Source: Kubernetes `apimachinery/pkg/apis/meta/v1/validation/validation.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    values = expression.get("values") or []
    return [
        *operator_causes(expression.get("operator") or "", values, path),
        *key_causes(expression.get("key") or "", path),
        *(
            causes.invalid(f"{path}.values[{index}]", value, wrong)
            for index, value in enumerate(values)
            if (wrong := names.label_value(value))
        ),
    ]


def operator_causes(operator: str, values: Sequence[object], path: str) -> list[Cause]:
    """What is wrong with an operator, or with how many values it was given. Node selectors have these too."""
    if operator in ("In", "NotIn"):
        detail = "must be specified when `operator` is 'In' or 'NotIn'"
        return [] if values else [causes.required(f"{path}.values", detail)]
    if operator in ("Exists", "DoesNotExist"):
        detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        return [causes.forbidden(f"{path}.values", detail)] if values else []
    return [causes.invalid(f"{path}.operator", operator, "not a valid selector operator")]


def key_causes(key: str, path: str) -> list[Cause]:
    """What is wrong with the label's name."""
    wrong = names.qualified_name(key)
    return [causes.invalid(f"{path}.key", key, wrong)] if wrong else []


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
