"""What a new pod gets from other objects and from the cluster: its priority, its account, its patience with nodes.

Source: Kubernetes ``plugin/pkg/admission/{priority,serviceaccount,defaulttolerationseconds}/admission.go``. No token
is mounted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from controlplane.api.kinds.priorityclasses import PREEMPTS
from netplane.kube.errors import refused
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import PODS

DEFAULT_ACCOUNT = "default"


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds a pod that says nothing of it stays on a node that is not ready, or silent."""

    not_ready: int = 300
    unreachable: int = 300


USUAL = Patience()
"""kube-apiserver's."""


def give_priority(pod: Object, classes: Iterable[Object]) -> None:
    """Resolve ``priorityClassName`` into ``priority`` and ``preemptionPolicy``, in place. Raises StatusError 403."""
    spec = pod.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("priorityClassName") or "", str):
        return
    known = list(classes)
    wanted = spec.get("priorityClassName") or _global_default(known)
    chosen: Object = {}
    if wanted:
        found = next((found for found in known if name_of(found) == wanted), None)
        if found is None:
            raise refused(PODS, name_of(pod), f"no PriorityClass with name {wanted} was found")
        chosen = found
        spec["priorityClassName"] = wanted
    _settle(pod, spec, "priority", chosen.get("value") or 0, "integer value of priority")
    policy = chosen.get("preemptionPolicy") or PREEMPTS
    _settle(pod, spec, "preemptionPolicy", policy, "string value of PreemptionPolicy")


def _global_default(classes: Iterable[Object]) -> str:
    """The class of pods that name none: of several the one with the lowest value, as everywhere."""
    marked = [found for found in classes if found.get("globalDefault")]
    return name_of(min(marked, key=lambda found: found.get("value") or 0)) if marked else ""


def _settle(pod: Object, spec: dict[str, Any], field: str, value: object, words: str) -> None:
    given = spec.get(field)
    if given is not None and given != value:
        raise refused(
            PODS,
            name_of(pod),
            f"the {words} ({given}) must not be provided in pod spec; priority admission controller computed "
            f"{value} from the given PriorityClass name",
        )
    spec[field] = value


def give_account(pod: Object, accounts: Iterable[Object]) -> None:
    """A pod that names no account runs under ``default``; one that is named must be there. Raises StatusError 403.

    ``default`` itself is not waited for: its controller makes it a moment after the namespace.
    """
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return
    wanted = spec.get("serviceAccountName") or DEFAULT_ACCOUNT
    if not isinstance(wanted, str):
        return
    if wanted != DEFAULT_ACCOUNT:
        namespace = namespace_of(pod)
        if not any(name_of(a) == wanted and namespace_of(a) == namespace for a in accounts):
            text = f'serviceaccount "{wanted}" not found'
            raise refused(
                PODS, name_of(pod), f"error looking up service account {namespace}/{wanted}: {text}"
            )
    spec["serviceAccountName"] = spec["serviceAccount"] = wanted


def give_tolerations(pod: Object, patience: Patience) -> None:
    """Tolerations of the two taints that a node gets by itself, where the pod has none of them, in place."""
    spec = pod.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("tolerations") or [], list):
        return
    own = list(spec.get("tolerations") or [])
    for taint, seconds in (("not-ready", patience.not_ready), ("unreachable", patience.unreachable)):
        key = f"node.kubernetes.io/{taint}"
        if not any(_is_about(toleration, key) for toleration in own):
            lasting = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
            spec["tolerations"] = [*(spec.get("tolerations") or []), lasting]


def _is_about(toleration: object, key: str) -> bool:
    if not isinstance(toleration, dict):
        return True  # validation says what is wrong with it
    return (toleration.get("key") or key) == key and (toleration.get("effect") or "NoExecute") == "NoExecute"
