"""Taints and tolerations, read the same way by node lifecycle and scheduler.

Source: Kubernetes ``component-helpers/scheduling/corev1``: a toleration without key and with Exists tolerates
everything; an empty effect matches all effects.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from controlplane.controllers.facts.pods import spec_of
from netplane.kube.objects import Object

UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NETWORK_UNAVAILABLE = "node.kubernetes.io/network-unavailable"

Taint = Mapping[str, Any]


def taints_of(node: Object) -> list[dict[str, Any]]:
    """``spec.taints``, empty when absent."""
    return list(spec_of(node).get("taints") or [])


def tolerations_of(pod: Object) -> list[dict[str, Any]]:
    """``spec.tolerations``, empty when absent."""
    return list(spec_of(pod).get("tolerations") or [])


def tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """Whether one toleration covers one taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if (toleration.get("operator") or "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(
    tolerations: Sequence[Mapping[str, Any]], taints: Iterable[Taint], effects: Iterable[str]
) -> Taint | None:
    """The first taint with one of these effects that nothing tolerates."""
    wanted = set(effects)
    for taint in taints:
        if taint.get("effect") in wanted and not any(tolerates(t, taint) for t in tolerations):
            return taint
    return None


def seconds_tolerated(tolerations: Sequence[Mapping[str, Any]], taint: Taint, default: float) -> float | None:
    """How long a pod may stay beside a NoExecute taint; None for ever, ``default`` where it says nothing."""
    found = [t for t in tolerations if tolerates(t, taint)]
    if not found:
        return default
    limits = [float(t["tolerationSeconds"]) for t in found if t.get("tolerationSeconds") is not None]
    return max(0.0, min(limits)) if limits else None
