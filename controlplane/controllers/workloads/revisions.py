"""Which ReplicaSet is a Deployment's present one: template hashes, revisions and the annotations kubectl reads.

Source: Kubernetes ``pkg/controller/deployment/util/deployment_util.go``. ``kubectl rollout history`` and ``undo``
read the revision annotations.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from controlplane.controllers.facts.names import SAFE_LETTERS
from controlplane.controllers.facts.owners import controller_ref
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.workloads.rollout import Bounds
from netplane.kube.objects import Object, annotations_of, meta, name_of, namespace_of
from netplane.kube.resources import DEPLOYMENTS

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        HISTORY,
        DESIRED,
        MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
)


def template_hash(template: Object, collisions: int) -> str:
    """Ten letters that stand for a pod template; ``collisions`` makes another ten of the same template."""
    text = orjson.dumps([bare_template(template), collisions], option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(text).digest()
    return "".join(SAFE_LETTERS[byte % len(SAFE_LETTERS)] for byte in digest[:10])


def bare_template(template: Object) -> Object:
    """The template without the hash label and without empty metadata, for comparison."""
    metadata = {key: value for key, value in meta(template).items() if value}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    metadata["labels"] = labels
    return {"metadata": metadata, "spec": template.get("spec") or {}}


def present_set(deployment: Object, sets: Sequence[Object]) -> Object | None:
    """The oldest ReplicaSet whose template is the Deployment's own."""
    wanted = bare_template(spec_of(deployment).get("template") or {})
    return next((rs for rs in sets if bare_template(spec_of(rs).get("template") or {}) == wanted), None)


def by_age(sets: Sequence[Object]) -> list[Object]:
    """Oldest first; equal ages by name."""
    return sorted(sets, key=lambda rs: (str(meta(rs).get("creationTimestamp") or ""), name_of(rs)))


def revision_of(obj: Object) -> int:
    """The revision annotation, 0 when absent or unreadable."""
    try:
        return int(annotations_of(obj).get(REVISION, "0"))
    except ValueError:
        return 0


def size_annotations(limits: Bounds) -> dict[str, str]:
    """What a set was scaled for, so that a later resize can keep its share."""
    return {DESIRED: str(limits.replicas), MAXIMUM: str(limits.replicas + limits.max_surge)}


def present_annotations(deployment: Object, present: Object | None, old: Sequence[Object]) -> dict[str, str]:
    """The Deployment's annotations and the revision that its present ReplicaSet should carry."""
    copied = {key: value for key, value in annotations_of(deployment).items() if key not in NOT_COPIED}
    newest = max((revision_of(rs) for rs in old), default=0) + 1
    had = revision_of(present) if present is not None else 0
    if had >= newest:
        return {**copied, REVISION: str(had)}
    history = annotations_of(present).get(HISTORY, "") if present is not None else ""
    if had:
        history = f"{history},{had}" if history else str(had)
    return {**copied, REVISION: str(newest), **({HISTORY: history} if history else {})}


def new_set(deployment: Object, replicas: int, annotations: dict[str, str]) -> Object:
    """A ReplicaSet for the Deployment's present template."""
    spec = spec_of(deployment)
    template = spec.get("template") or {}
    stamp = template_hash(template, int((deployment.get("status") or {}).get("collisionCount") or 0))
    labels = {**(meta(template).get("labels") or {}), HASH_LABEL: stamp}
    selector: dict[str, Any] = dict(spec.get("selector") or {})
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: stamp}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{name_of(deployment)}-{stamp}",
            "namespace": namespace_of(deployment),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [controller_ref(DEPLOYMENTS, deployment)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": int(spec.get("minReadySeconds") or 0),
            "selector": selector,
            "template": {**template, "metadata": {**meta(template), "labels": labels}},
        },
    }
