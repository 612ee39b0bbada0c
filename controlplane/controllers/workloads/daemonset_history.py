"""A DaemonSet's old templates, kept as ControllerRevisions: what `kubectl rollout history` and `undo` read.

Source: Kubernetes ``pkg/controller/daemon/update.go``. A revision's name holds ten letters of a hash of its template,
so two templates of one DaemonSet share a name once in 10^14.
"""

from collections.abc import Sequence

from controlplane.controllers.actions import Action, Create, Delete, metadata_patch
from controlplane.controllers.facts.owners import controller_ref
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.workloads.daemonset_rules import HASH_LABEL
from controlplane.controllers.workloads.revisions import template_hash
from netplane.kube.objects import Object, key_of, labels_of, meta, name_of, namespace_of, uid_of
from netplane.kube.resources import CONTROLLERREVISIONS, DAEMONSETS

KEPT = 10


def data_of(daemonset: Object) -> Object:
    """What a revision keeps: the patch that brings the template back."""
    return {"spec": {"template": {**(spec_of(daemonset).get("template") or {}), "$patch": "replace"}}}


def stamp_of(daemonset: Object) -> str:
    """The hash of the present template."""
    return template_hash(spec_of(daemonset).get("template") or {}, 0)


def history_actions(daemonset: Object, revisions: Sequence[Object], in_use: set[str]) -> list[Action]:
    """Keep the present template as the newest revision, and no more old ones than asked for.

    ``in_use``: the hashes that pods carry; their revisions stay.
    """
    stamp = stamp_of(daemonset)
    present = next((r for r in revisions if labels_of(r).get(HASH_LABEL) == stamp), None)
    others = [revision for revision in revisions if revision is not present]
    newest = max((number_of(revision) for revision in others), default=0) + 1
    if present is None:
        return [Create(CONTROLLERREVISIONS, _revision(daemonset, stamp, newest))]
    if number_of(present) < newest:
        return [metadata_patch(CONTROLLERREVISIONS, present, {}, revision=newest)]
    limit = spec_of(daemonset).get("revisionHistoryLimit")
    spare = [r for r in others if labels_of(r).get(HASH_LABEL) not in in_use]
    excess = len(spare) - int(KEPT if limit is None else limit)
    doomed = sorted(spare, key=number_of)[: max(0, excess)]
    return [Delete(CONTROLLERREVISIONS, key_of(revision), uid_of(revision)) for revision in doomed]


def number_of(revision: Object) -> int:
    """``revision``: the higher the newer."""
    return int(revision.get("revision") or 0)


def _revision(daemonset: Object, stamp: str, number: int) -> Object:
    template = spec_of(daemonset).get("template") or {}
    return {
        "apiVersion": CONTROLLERREVISIONS.api_version,
        "kind": CONTROLLERREVISIONS.kind,
        "metadata": {
            "name": f"{name_of(daemonset)}-{stamp}",
            "namespace": namespace_of(daemonset),
            "labels": {**(meta(template).get("labels") or {}), HASH_LABEL: stamp},
            "annotations": _annotations(daemonset),
            "ownerReferences": [controller_ref(DAEMONSETS, daemonset)],
        },
        "data": data_of(daemonset),
        "revision": number,
    }


def _annotations(daemonset: Object) -> dict[str, str]:
    """The DaemonSet's own, among them ``kubernetes.io/change-cause``, which the history shows."""
    own = meta(daemonset).get("annotations") or {}
    return {k: v for k, v in own.items() if k != "kubectl.kubernetes.io/last-applied-configuration"}
