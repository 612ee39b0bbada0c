"""What is wrong with where a pod wants to be: affinity, spread, readiness gates; and what nobody here acts on.

Source: Kubernetes `pkg/apis/core/validation/validation.go` (validateAffinity, validateTopologySpreadConstraints).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.label_selector import key_causes, operator_causes, selector_causes
from netplane.kube.errors import Cause
from netplane.kube.objects import Object

Fields = Mapping[str, Any]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")
_WEIGHT = "must be in the range 1-100"
_EMPTY = "can not be empty"


def placement_causes(spec: Fields, path: str) -> list[Cause]:
    """Everything wrong with these fields of a pod's spec, whose types are right."""
    affinity, at = spec.get("affinity") or {}, f"{path}.affinity"
    found = _node_affinity_causes(affinity.get("nodeAffinity") or {}, f"{at}.nodeAffinity")
    for side in ("podAffinity", "podAntiAffinity"):
        found += _pod_affinity_causes(affinity.get(side) or {}, f"{at}.{side}")
    found += _spread_causes(spec.get("topologySpreadConstraints") or [], f"{path}.topologySpreadConstraints")
    found += [
        causes.invalid(f"{path}.readinessGates[{index}].conditionType", gate.get("conditionType"), wrong)
        for index, gate in enumerate(spec.get("readinessGates") or [])
        if (wrong := names.qualified_name(gate.get("conditionType") or ""))
    ]
    return found


def unheeded(spec: Fields, path: str) -> list[str]:
    """Warnings of the fields that netplane's scheduler does not act on."""
    affinity = spec.get("affinity") or {}
    fields = [f"affinity.{side}" for side in ("podAffinity", "podAntiAffinity") if affinity.get(side)]
    if spec.get("topologySpreadConstraints"):
        fields.append("topologySpreadConstraints")
    return [f"{path}.{field}: stored, but netplane's scheduler does not act on it" for field in fields]


def pod_warnings(pod: Object) -> list[str]:
    """Of a Pod."""
    return unheeded(pod.get("spec") or {}, "spec")


def template_warnings(workload: Object) -> list[str]:
    """Of a workload with a pod template."""
    template = (workload.get("spec") or {}).get("template") or {}
    return unheeded(template.get("spec") or {}, "spec.template.spec")


def _node_affinity_causes(affinity: Fields, path: str) -> list[Cause]:
    found: list[Cause] = []
    required = affinity.get(REQUIRED)
    if required is not None:
        at, terms = f"{path}.{REQUIRED}.nodeSelectorTerms", required.get("nodeSelectorTerms") or []
        if not terms:
            found.append(causes.required(at, "must have at least one node selector term"))
        for index, term in enumerate(terms):
            found += _term_causes(term, f"{at}[{index}]")
    for index, preferred in enumerate(affinity.get(PREFERRED) or []):
        at = f"{path}.{PREFERRED}[{index}]"
        found += _weight_causes(preferred, at)
        found += _term_causes(preferred.get("preference") or {}, f"{at}.preference")
    return found


def _weight_causes(preferred: Fields, path: str) -> list[Cause]:
    weight = preferred.get("weight") or 0
    return [] if 1 <= weight <= 100 else [causes.invalid(f"{path}.weight", weight, _WEIGHT)]


def _term_causes(term: Fields, path: str) -> list[Cause]:
    found: list[Cause] = []
    for index, expression in enumerate(term.get("matchExpressions") or []):
        found += _expression_causes(expression, f"{path}.matchExpressions[{index}]")
    for index, field in enumerate(term.get("matchFields") or []):
        found += _field_causes(field, f"{path}.matchFields[{index}]")
    return found


def _expression_causes(expression: Fields, path: str) -> list[Cause]:
    operator, values = expression.get("operator") or "", expression.get("values") or []
    if operator in ("Gt", "Lt"):
        detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
        found = [] if len(values) == 1 else [causes.required(f"{path}.values", detail)]
    else:
        found = operator_causes(operator, values, path)
    return [*found, *key_causes(expression.get("key") or "", path)]


def _field_causes(field: Fields, path: str) -> list[Cause]:
    """A node is chosen by one field only: its name."""
    found: list[Cause] = []
    key, operator, values = field.get("key") or "", field.get("operator") or "", field.get("values") or []
    if operator not in ("In", "NotIn"):
        found.append(causes.invalid(f"{path}.operator", operator, "not a valid selector operator"))
    elif len(values) != 1:
        detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
        found.append(causes.required(f"{path}.values", detail))
    if key != "metadata.name":
        found.append(causes.invalid(f"{path}.key", key, "not a valid field selector key"))
    else:
        found += [
            causes.invalid(f"{path}.values[{index}]", value, wrong)
            for index, value in enumerate(values)
            if (wrong := names.dns_subdomain(value))
        ]
    return found


def _pod_affinity_causes(affinity: Fields, path: str) -> list[Cause]:
    found: list[Cause] = []
    for index, term in enumerate(affinity.get(REQUIRED) or []):
        found += _pod_term_causes(term, f"{path}.{REQUIRED}[{index}]")
    for index, preferred in enumerate(affinity.get(PREFERRED) or []):
        at = f"{path}.{PREFERRED}[{index}]"
        found += _weight_causes(preferred, at)
        found += _pod_term_causes(preferred.get("podAffinityTerm") or {}, f"{at}.podAffinityTerm")
    return found


def _pod_term_causes(term: Fields, path: str) -> list[Cause]:
    found: list[Cause] = []
    for selector in ("labelSelector", "namespaceSelector"):
        if term.get(selector) is not None:
            found += selector_causes(term[selector], f"{path}.{selector}")
    found += [
        causes.invalid(f"{path}.namespace", namespace, wrong)
        for namespace in term.get("namespaces") or []
        if (wrong := names.dns_label(namespace))
    ]
    return found + _topology_key_causes(term, path)


def _topology_key_causes(fields: Fields, path: str) -> list[Cause]:
    key = fields.get("topologyKey") or ""
    if not key:
        return [causes.required(f"{path}.topologyKey", _EMPTY)]
    wrong = names.qualified_name(key)
    return [causes.invalid(f"{path}.topologyKey", key, wrong)] if wrong else []


def _spread_causes(constraints: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    seen: set[tuple[str, str]] = set()
    for index, constraint in enumerate(constraints):
        at, skew = f"{path}[{index}]", constraint.get("maxSkew") or 0
        if skew <= 0:
            found.append(causes.invalid(f"{at}.maxSkew", skew, "must be greater than zero"))
        found += _topology_key_causes(constraint, at)
        action = constraint.get("whenUnsatisfiable") or ""
        if action not in UNSATISFIABLE:
            found.append(causes.not_supported(f"{at}.whenUnsatisfiable", action, UNSATISFIABLE))
        pair = (constraint.get("topologyKey") or "", action)
        if pair in seen:
            shown = f"{{{pair[0]}, {pair[1]}}}"
            found.append(causes.duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", shown))
        seen.add(pair)
        found += _domain_causes(constraint, at)
        if constraint.get("labelSelector") is not None:
            found += selector_causes(constraint["labelSelector"], f"{at}.labelSelector")
    return found


def _domain_causes(constraint: Fields, path: str) -> list[Cause]:
    domains = constraint.get("minDomains")
    if domains is None:
        return []
    if domains <= 0:
        return [causes.invalid(f"{path}.minDomains", domains, "must be greater than zero")]
    action = constraint.get("whenUnsatisfiable") or ""
    if action == "DoNotSchedule":
        return []
    detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
    return [causes.invalid(f"{path}.minDomains", domains, detail)]
