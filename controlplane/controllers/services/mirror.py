"""The older Endpoints object, kept beside the slices for clients that still read it (``kubectl get endpoints``).

Source: Kubernetes ``pkg/controller/endpoint``: at most a thousand addresses, one address family, no terminating
pods. Nothing of netplane reads these.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.controllers.actions import Action, Create, Delete, Replace
from controlplane.controllers.facts.owners import controller_ref
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.services.endpoints import Endpoint, Group, Port, families
from controlplane.controllers.services.slices import HEADLESS, TRIGGER
from netplane.kube.objects import (
    Object,
    annotations_of,
    key_of,
    labels_of,
    meta,
    name_of,
    namespace_of,
    uid_of,
)
from netplane.kube.resources import ENDPOINTS, SERVICES

MOST = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
OUR_NAME = "endpoint-controller"


def reconcile_mirror(
    service: Object,
    wanted: Mapping[Group, Sequence[Endpoint]],
    existing: Object | None,
    trigger: str | None,
) -> list[Action]:
    """The write that makes the Endpoints object of the Service's name say what is wanted."""
    family = families(service)[0]
    found = {group: endpoints for group, endpoints in wanted.items() if group[0] == family}
    subsets, cut = _subsets(found, publishes=bool(spec_of(service).get("publishNotReadyAddresses")))
    labels = {k: v for k, v in labels_of(service).items() if k != HEADLESS}
    labels[MANAGED_BY] = OUR_NAME
    if spec_of(service).get("clusterIP") == "None":
        labels[HEADLESS] = ""
    annotations = _annotations(existing, trigger, cut)
    if existing is None:
        metadata: dict[str, Any] = {
            "name": name_of(service),
            "namespace": namespace_of(service),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [controller_ref(SERVICES, service)],
        }
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}
        return [Create(ENDPOINTS, body)]
    if uid_of(service) not in [owner.get("uid") for owner in meta(existing).get("ownerReferences") or []]:
        return [Delete(ENDPOINTS, key_of(existing), uid_of(existing))]
    if (existing.get("subsets") or []) == subsets and labels_of(existing) == labels:
        return []
    metadata = {**meta(existing), "labels": labels, "annotations": annotations}
    return [Replace(ENDPOINTS, {**existing, "metadata": metadata, "subsets": subsets})]


def _annotations(existing: Object | None, trigger: str | None, cut: bool) -> dict[str, str]:
    kept = annotations_of(existing) if existing is not None else {}
    annotations = {key: value for key, value in kept.items() if key not in (TRIGGER, OVER_CAPACITY)}
    if trigger is not None:
        annotations[TRIGGER] = trigger
    if cut:
        annotations[OVER_CAPACITY] = "truncated"
    return annotations


def _subsets(
    wanted: Mapping[Group, Sequence[Endpoint]], *, publishes: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Subsets in a stable order, and whether addresses were left out."""
    by_ports: dict[tuple[Port, ...], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    count = 0
    total = 0
    for (_, ports), endpoints in sorted(wanted.items(), key=lambda item: str(item[0])):
        for endpoint in endpoints:
            if endpoint.terminating and not publishes:
                continue
            total += 1
            if count < MOST:
                count += 1
                ready = "addresses" if endpoint.ready else "notReadyAddresses"
                by_ports[ports][ready].append(_address(endpoint))
    subsets = [
        {**addresses, "ports": [port.to_json() for port in ports]} for ports, addresses in by_ports.items()
    ]
    return subsets, total > count


def _address(endpoint: Endpoint) -> dict[str, Any]:
    entry: dict[str, Any] = {"ip": endpoint.address, "targetRef": endpoint.target_ref()}
    if endpoint.node:
        entry["nodeName"] = endpoint.node
    if endpoint.hostname is not None:
        entry["hostname"] = endpoint.hostname
    return entry
