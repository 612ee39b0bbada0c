"""Where a DaemonSet's pods belong, and how they get there: the pure part.

Laws: at most one pod a node outside a surge; a rolling update takes away available pods of the old template only
while fewer than maxUnavailable of the nodes that want a pod lack an available one.
Source: Kubernetes ``pkg/controller/daemon/{daemon_controller,update}.go`` and ``util/daemonset_util.go``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any

from controlplane.controllers.actions import Action, Create, Delete
from controlplane.controllers.facts.affinity import REQUIRED, fits_affinity, required_terms
from controlplane.controllers.facts.pods import (
    is_ready,
    is_terminal,
    moment,
    node_of,
    phase_of,
    seconds_until_available,
    spec_of,
)
from controlplane.controllers.facts.taints import (
    NETWORK_UNAVAILABLE,
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    taints_of,
    untolerated,
)
from controlplane.controllers.facts.templates import pod_from_template
from netplane.kube.objects import Object, annotations_of, is_deleting, key_of, labels_of, name_of, uid_of
from netplane.kube.resources import DAEMONSETS, PODS

HASH_LABEL = "controller-revision-hash"
GENERATION_LABEL = "pod-template-generation"
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
BURST = 250  # pods created or deleted by one decision
FAILED_REST_SECONDS = 15.0  # a pod that failed for good is replaced when it is this old, so that none spins
ROLLING = "RollingUpdate"
_LASTING = ((NOT_READY, "NoExecute"), (UNREACHABLE, "NoExecute"))
_PRESSURES = ("disk-pressure", "memory-pressure", "pid-pressure")


@dataclass(frozen=True, slots=True)
class Place:
    """Whether a node is to get the pod, and whether a pod that is there may stay."""

    wanted: bool
    stays: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """A DaemonSet, every node with its place, the DaemonSet's pods by node, and the present template's hash."""

    daemonset: Object
    places: Mapping[str, Place]
    pods: Mapping[str, Sequence[Object]]
    stamp: str
    now: datetime

    @property
    def wanted(self) -> list[str]:
        """The nodes that are to run the pod."""
        return [node for node, place in self.places.items() if place.wanted]

    def on(self, node: str) -> list[Object]:
        """The node's pods, oldest first; what is finished and leaving is not counted."""
        found = [pod for pod in self.pods.get(node, ()) if not (is_deleting(pod) and is_terminal(pod))]
        return sorted(found, key=lambda pod: (str(moment(pod, "creationTimestamp")), name_of(pod)))

    def is_new(self, pod: Object) -> bool:
        """Whether the pod has the present template."""
        return labels_of(pod).get(HASH_LABEL) == self.stamp

    def available(self, pod: Object) -> bool:
        """Whether the pod counts as available now."""
        patience = int(spec_of(self.daemonset).get("minReadySeconds") or 0)
        return not is_deleting(pod) and seconds_until_available(pod, patience, self.now) == 0


def tolerations(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The template's tolerations and those that every daemon has: it stays where other pods must leave."""
    added = [{"key": key, "operator": "Exists", "effect": effect} for key, effect in _LASTING]
    scheduled = [f"node.kubernetes.io/{pressure}" for pressure in _PRESSURES]
    scheduled.append(UNSCHEDULABLE)
    if spec.get("hostNetwork"):
        scheduled.append(NETWORK_UNAVAILABLE)
    added += [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in scheduled]
    own = list(spec.get("tolerations") or [])
    return own + [toleration for toleration in added if toleration not in own]


def place_on(daemonset: Object, node: Object) -> Place:
    """What the node is to the DaemonSet."""
    spec = spec_of(spec_of(daemonset).get("template") or {})
    named = spec.get("nodeName")
    if (named and named != name_of(node)) or not fits_affinity({"spec": spec}, node):
        return Place(False, False)
    tolerated, taints = tolerations(spec), taints_of(node)
    unwelcome = untolerated(tolerated, taints, ("NoSchedule", "NoExecute"))
    expelled = untolerated(tolerated, taints, ("NoExecute",))
    return Place(wanted=unwelcome is None, stays=expelled is None)


def target_of(pod: Object) -> str:
    """The node a pod is on, or is made for; "" if it says neither."""
    if node := node_of(pod):
        return node
    for term in required_terms(spec_of(pod)) or []:
        for field in term.get("matchFields") or []:
            if field.get("key") == "metadata.name" and len(field.get("values") or []) == 1:
                return str(field["values"][0])
    return ""


def pod_for(daemonset: Object, node: str, stamp: str, suffix: str) -> Object:
    """A pod for this node only: the scheduler binds it there, when there is room."""
    pod = pod_from_template(DAEMONSETS, daemonset, suffix)
    pod["metadata"]["labels"][HASH_LABEL] = stamp
    if generation := annotations_of(daemonset).get(TEMPLATE_GENERATION):
        pod["metadata"]["labels"][GENERATION_LABEL] = generation
    spec = pod["spec"]
    only = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    terms = [{**term, "matchFields": only} for term in required_terms(spec) or [{}]]
    affinity = dict(spec.get("affinity") or {})
    affinity["nodeAffinity"] = {
        **(affinity.get("nodeAffinity") or {}),
        REQUIRED: {"nodeSelectorTerms": terms},
    }
    pod["spec"] = {**spec, "affinity": affinity, "tolerations": tolerations(spec)}
    return pod


def manage(scene: Scene, suffix: Callable[[], str]) -> list[Action]:
    """Pods where there is none and one is wanted; none where none may stay; one where there are several."""
    missing: list[str] = []
    doomed: list[Object] = []
    for node, place in scene.places.items():
        pods = scene.on(node)
        if place.wanted and not pods:
            missing.append(node)
        elif not place.stays:
            doomed += [pod for pod in pods if not is_deleting(pod)]
        else:
            doomed += _surplus(scene, [pod for pod in pods if not is_deleting(pod)])
    creates = [
        Create(PODS, pod_for(scene.daemonset, node, scene.stamp, suffix())) for node in missing[:BURST]
    ]
    return [*creates, *_deletes(doomed)]


def _surplus(scene: Scene, pods: Sequence[Object]) -> list[Object]:
    """What has ended, and what is too many of the rest."""
    ended = [pod for pod in pods if is_terminal(pod)]
    rested = [pod for pod in ended if phase_of(pod) == "Succeeded" or rest_left(pod, scene.now) <= 0]
    running = [pod for pod in pods if pod not in ended]
    if not max_surge(scene):
        return rested + running[1:]
    new = [pod for pod in running if scene.is_new(pod)]
    old = [pod for pod in running if not scene.is_new(pod)]
    surplus = new[1:] + old[1:]
    if new and old and (not is_ready(old[0]) or scene.available(new[0])):
        surplus.append(old[0])
    return rested + surplus


def rest_left(pod: Object, now: datetime) -> float:
    """Seconds until a failed pod may be replaced."""
    born = moment(pod, "creationTimestamp")
    return 0.0 if born is None else FAILED_REST_SECONDS - (now - born).total_seconds()


def next_look(scene: Scene) -> float | None:
    """Seconds until time alone changes something: a failed pod has rested, a ready one is available."""
    patience = int(spec_of(scene.daemonset).get("minReadySeconds") or 0)
    waits: list[float] = []
    for node in scene.places:
        for pod in scene.on(node):
            if phase_of(pod) == "Failed":
                waits.append(rest_left(pod, scene.now))
            else:
                waits.append(seconds_until_available(pod, patience, scene.now) or 0.0)
    return min((wait for wait in waits if wait > 0), default=None)


def roll(scene: Scene, suffix: Callable[[], str]) -> list[Action]:
    """The next step of a rolling update; nothing for another strategy."""
    if (spec_of(scene.daemonset).get("updateStrategy") or {}).get("type") != ROLLING:
        return []
    surge = max_surge(scene)
    return _surge(scene, surge, suffix) if surge else _replace(scene)


def max_surge(scene: Scene) -> int:
    """``maxSurge``, resolved: nodes that may have an old and a new pod."""
    return _resolved(scene, "maxSurge", 0)


def _resolved(scene: Scene, field: str, default: int) -> int:
    strategy = spec_of(scene.daemonset).get("updateStrategy") or {}
    if strategy.get("type") != ROLLING:
        return 0
    text = str((strategy.get("rollingUpdate") or {}).get(field, default))
    return ceil(int(text[:-1]) * len(scene.wanted) / 100) if text.endswith("%") else int(text)


def _pair(scene: Scene, node: str) -> tuple[Object | None, Object | None]:
    """(new, old) of a node's living pods, the oldest of each."""
    living = [pod for pod in scene.on(node) if not is_deleting(pod)]
    new = next((pod for pod in living if scene.is_new(pod)), None)
    return new, next((pod for pod in living if not scene.is_new(pod)), None)


def _replace(scene: Scene) -> list[Action]:
    unavailable = 0
    broken: list[Object] = []
    sound: list[Object] = []
    for node in scene.wanted:
        new, old = _pair(scene, node)
        if new is None and old is not None:
            (sound if scene.available(old) else broken).append(old)
        if (new is None and old is None) or (new is not None and not scene.available(new)):
            unavailable += 1
    room = max(0, _resolved(scene, "maxUnavailable", 1) - unavailable - len(broken))
    return _deletes([*broken, *sound[:room]])


def _surge(scene: Scene, most: int, suffix: Callable[[], str]) -> list[Action]:
    surging, urgent, waiting = 0, list[str](), list[str]()
    for node in scene.wanted:
        new, old = _pair(scene, node)
        if old is None:
            continue
        if new is None:
            (waiting if scene.available(old) else urgent).append(node)
        elif not scene.available(new):
            surging += 1
    nodes = urgent + waiting[: max(0, most - surging)]
    return [Create(PODS, pod_for(scene.daemonset, node, scene.stamp, suffix())) for node in nodes[:BURST]]


def _deletes(pods: Sequence[Object]) -> list[Action]:
    return [Delete(PODS, key_of(pod), uid_of(pod)) for pod in pods[:BURST]]


def status(scene: Scene) -> dict[str, Any]:
    """The whole ``status`` but its collision count."""
    wanted = scene.wanted
    filled = [(node, pods) for node in wanted if (pods := scene.on(node))]
    available = sum(any(scene.available(pod) for pod in pods) for _, pods in filled)
    strays = [node for node, place in scene.places.items() if not place.wanted and scene.on(node)]
    return {
        "currentNumberScheduled": len(filled),
        "numberMisscheduled": len(strays),
        "desiredNumberScheduled": len(wanted),
        "numberReady": sum(any(is_ready(pod) for pod in pods) for _, pods in filled),
        "updatedNumberScheduled": sum(any(scene.is_new(pod) for pod in pods) for _, pods in filled),
        "numberAvailable": available,
        "numberUnavailable": len(wanted) - available,
        "observedGeneration": (scene.daemonset.get("metadata") or {}).get("generation", 0),
    }
