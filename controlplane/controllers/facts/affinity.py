"""Which nodes a pod asks for by labels and name, read the same way by scheduler and DaemonSets.

Source: Kubernetes ``component-helpers/scheduling/corev1/nodeaffinity``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.controllers.facts.pods import spec_of
from netplane.kube.objects import Object, labels_of, name_of
from netplane.kube.selectors import Requirement

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def fits_affinity(pod: Object, node: Object) -> bool:
    """Whether the node has the labels of ``nodeSelector`` and satisfies the required node affinity."""
    labels = labels_of(node)
    selector = spec_of(pod).get("nodeSelector") or {}
    return all(labels.get(key) == value for key, value in selector.items()) and _required(pod, node)


def required_terms(spec: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The alternatives of a pod spec's required node affinity; None without one."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get(REQUIRED)
    return None if required is None else list(required.get("nodeSelectorTerms") or [])


def _required(pod: Object, node: Object) -> bool:
    terms = required_terms(spec_of(pod))
    return terms is None or any(matches_term(term, node) for term in terms)


def matches_term(term: Mapping[str, Any], node: Object) -> bool:
    """One node selector term: all of its expressions and fields; an empty term matches nothing."""
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    by_field = {"metadata.name": name_of(node)}
    return _all(expressions, labels_of(node)) and _all(fields, by_field)


def _all(expressions: Sequence[Mapping[str, Any]], values: Mapping[str, str]) -> bool:
    try:
        return all(
            Requirement(str(e.get("key")), str(e.get("operator")), tuple(e.get("values") or ())).matches(
                values
            )
            for e in expressions
        )
    except ValueError:
        return False  # an operator nobody knows matches nothing
