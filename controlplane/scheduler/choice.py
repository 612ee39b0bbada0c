"""Which of the possible nodes is best: first spread, then balance, and never by chance.

The order of reasons replaces kube-scheduler's weighted sum, so that every choice can be explained: avoid what the
node would rather not run, follow what the pod prefers, keep pods of one application apart, fill the emptiest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from controlplane.controllers.facts.affinity import matches_term
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.facts.taints import taints_of, tolerates, tolerations_of
from controlplane.scheduler.filters import explain, reasons_against
from controlplane.scheduler.usage import Demand, NodeUsage, Usage, allocatable_of
from netplane.kube.objects import Object, name_of

Siblings = Mapping[str, tuple[int, int]]
"""By node, pods on their way included: how many have the same owner, and how many a Service in common.

The owner counts first: in a rolling update the new pods spread among themselves, whatever the old ones do.
"""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The node for the pod."""

    node: str


@dataclass(frozen=True, slots=True)
class Impossible:
    """No node can run the pod now; ``message`` says why, for people."""

    message: str


def choose(
    pod: Object, demand: Demand, nodes: Iterable[Object], usage: Usage, siblings: Siblings
) -> Chosen | Impossible:
    """Pick a node."""
    possible: list[Object] = []
    reasons: list[str] = []
    total = 0
    for node in nodes:
        total += 1
        against = reasons_against(pod, demand, node, usage.on(name_of(node)))
        reasons += against
        if not against:
            possible.append(node)
    if not possible:
        return Impossible(explain(total, reasons))
    best = min(possible, key=lambda node: _rank(pod, demand, node, usage.on(name_of(node)), siblings))
    return Chosen(name_of(best))


def _rank(
    pod: Object, demand: Demand, node: Object, usage: NodeUsage, siblings: Siblings
) -> tuple[object, ...]:
    """The smaller, the better; the name decides last."""
    return (
        _unwelcome(pod, node),
        -_preferred(pod, node),
        siblings.get(name_of(node), (0, 0)),
        _filled(demand, node, usage),
        name_of(node),
    )


def _unwelcome(pod: Object, node: Object) -> int:
    tolerations = tolerations_of(pod)
    soft = [t for t in taints_of(node) if t.get("effect") == "PreferNoSchedule"]
    return sum(not any(tolerates(toleration, taint) for toleration in tolerations) for taint in soft)


def _preferred(pod: Object, node: Object) -> int:
    affinity = (spec_of(pod).get("affinity") or {}).get("nodeAffinity") or {}
    wishes: Sequence[Mapping[str, object]] = (
        affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    )
    return sum(
        int(str(wish.get("weight") or 0))
        for wish in wishes
        if isinstance(term := wish.get("preference"), dict) and matches_term(term, node)
    )


def _filled(demand: Demand, node: Object, usage: NodeUsage) -> Fraction:
    """How full cpu, memory and pod slots would be on average: least allocated is best."""
    allocatable = allocatable_of(node)
    after = {
        "cpu": usage.requests["cpu"] + demand.requests.get("cpu", 0),
        "memory": usage.requests["memory"] + demand.requests.get("memory", 0),
        "pods": usage.pods + 1,
    }
    return sum((Fraction(after[name], allocatable.get(name) or 1) for name in after), Fraction(0))
