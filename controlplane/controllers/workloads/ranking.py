"""Which pods go first when there are too many: those whose loss costs least.

Source: Kubernetes ``pkg/controller/controller_utils.go``, ActivePodsWithRanks; ties end at the name, so that the
choice is the same however often it is made.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from controlplane.controllers.facts.pods import (
    RUNNING_ORDER,
    is_ready,
    moment,
    node_of,
    phase_of,
    ready_since,
    restarts_of,
)
from netplane.kube.objects import Object, annotations_of, name_of

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def first_to_go(pods: Iterable[Object], related: Iterable[Object]) -> list[Object]:
    """The pods in the order of deletion. ``related``: all pods of the same application, for their spread."""
    per_node = Counter(node_of(pod) for pod in related)
    return sorted(pods, key=lambda pod: _rank(pod, per_node))


def _rank(pod: Object, per_node: Counter[str]) -> tuple[object, ...]:
    return (
        node_of(pod) != "",
        RUNNING_ORDER.get(phase_of(pod), 1),
        is_ready(pod),
        _deletion_cost(pod),
        -per_node[node_of(pod)],
        _youth(ready_since(pod)),
        -restarts_of(pod),
        _youth(moment(pod, "creationTimestamp")),
        name_of(pod),
    )


def _deletion_cost(pod: Object) -> int:
    try:
        return int(annotations_of(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _youth(since: datetime | None) -> float:
    """Younger goes first: the later the moment, the smaller the rank. Absent counts as youngest."""
    return -since.timestamp() if since is not None else float("-inf")
