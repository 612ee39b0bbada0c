"""Cutting endpoints into EndpointSlices with the fewest writes: what stays, stays in the slice it is in.

Laws: every endpoint is in exactly one slice of its group; no slice has more than a hundred; a Service always has
at least one slice in each of its address families, so that "no endpoints" can be told from "not looked at yet".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.controllers.actions import Action, Create, Delete, Replace
from controlplane.controllers.facts.owners import controller_ref
from controlplane.controllers.facts.pods import spec_of
from controlplane.controllers.services.endpoints import Endpoint, Group, Port, families, ports_of
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
from netplane.kube.resources import ENDPOINTSLICES, SERVICES

MOST = 100
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
OUR_NAME = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
NAME_ROOM = 57


@dataclass(frozen=True, slots=True)
class Cut:
    """What one slice should hold: an existing one, or a new one where ``slice`` is None."""

    slice: Object | None
    group: Group
    endpoints: tuple[dict[str, Any], ...]


def reconcile_slices(
    service: Object,
    wanted: Mapping[Group, Sequence[Endpoint]],
    existing: Sequence[Object],
    trigger: str | None,
    suffix: Callable[[], str],
) -> list[Action]:
    """The writes that make the existing slices say what is wanted. ``trigger``: when the oldest change began."""
    groups: dict[Group, list[dict[str, Any]]] = {
        group: [endpoint.to_json() for endpoint in endpoints] for group, endpoints in wanted.items()
    }
    mine = sorted((s for s in existing if _of(service, s)), key=name_of)
    for family in families(service):
        if not any(group[0] == family for group in groups):
            groups[_empty_group(service, family, mine)] = []
    actions: list[Action] = []
    used: set[str] = set()
    for group, endpoints in groups.items():
        for cut in _cuts(group, endpoints, [s for s in mine if _group_of(s) == group]):
            actions += _write(service, cut, trigger, suffix)
            used.add(uid_of(cut.slice) if cut.slice is not None else "")
    # Deletions come last: there is never a moment without the endpoints that stay.
    return [*actions, *(_delete(s) for s in existing if uid_of(s) not in used)]


def _empty_group(service: Object, family: str, mine: Sequence[Object]) -> Group:
    """The group of the slice that says "none": the one that is there, else the ports known without a pod."""
    there = next((s for s in mine if s.get("addressType") == family), None)
    return _group_of(there) if there is not None else (family, ports_of(service, {}))


def _cuts(group: Group, endpoints: Sequence[dict[str, Any]], slices: Sequence[Object]) -> list[Cut]:
    """At least one cut; an existing slice that none of them names is no longer needed."""
    left = {_identity(endpoint): endpoint for endpoint in endpoints}
    kept: list[list[dict[str, Any]]] = []
    for existing in slices:
        stays: list[dict[str, Any]] = []
        for identity in map(_identity, existing.get("endpoints") or []):
            if identity in left and len(stays) < MOST:
                stays.append(left.pop(identity))
        kept.append(stays)
    rest = list(left.values())
    # Slices that must be written anyway take newcomers first, then the fullest, so that the fewest are written.
    changed = [list(s.get("endpoints") or []) != k for s, k in zip(slices, kept, strict=True)]
    for index in sorted(range(len(slices)), key=lambda i: (not changed[i], -len(kept[i]))):
        room = MOST - len(kept[index])
        kept[index] += rest[:room]
        rest = rest[room:]
    cuts = [Cut(existing, group, tuple(k)) for existing, k in zip(slices, kept, strict=True)]
    cuts += [Cut(None, group, tuple(rest[i : i + MOST])) for i in range(0, len(rest), MOST)]
    return [cut for cut in cuts if cut.endpoints] or cuts[:1] or [Cut(None, group, ())]


def _write(service: Object, cut: Cut, trigger: str | None, suffix: Callable[[], str]) -> list[Action]:
    labels = _labels(service)
    if cut.slice is None:
        return [Create(ENDPOINTSLICES, _new_slice(service, cut, labels, trigger, suffix))]
    if list(cut.endpoints) == list(cut.slice.get("endpoints") or []) and labels_of(cut.slice) == labels:
        return []
    annotations = {key: value for key, value in annotations_of(cut.slice).items() if key != TRIGGER}
    if trigger is not None:
        annotations[TRIGGER] = trigger
    metadata = {**meta(cut.slice), "labels": labels, "annotations": annotations}
    return [Replace(ENDPOINTSLICES, {**cut.slice, "metadata": metadata, "endpoints": list(cut.endpoints)})]


def _new_slice(
    service: Object, cut: Cut, labels: dict[str, str], trigger: str | None, suffix: Callable[[], str]
) -> Object:
    address_type, ports = cut.group
    return {
        "apiVersion": ENDPOINTSLICES.api_version,
        "kind": ENDPOINTSLICES.kind,
        "metadata": {
            "name": f"{name_of(service)[:NAME_ROOM]}-{suffix()}",
            "generateName": f"{name_of(service)}-",
            "namespace": namespace_of(service),
            "labels": labels,
            "annotations": {TRIGGER: trigger} if trigger is not None else {},
            "ownerReferences": [controller_ref(SERVICES, service)],
        },
        "addressType": address_type,
        "ports": [port.to_json() for port in ports],
        "endpoints": list(cut.endpoints),
    }


def _labels(service: Object) -> dict[str, str]:
    labels = {k: v for k, v in labels_of(service).items() if k not in (HEADLESS, SERVICE_NAME, MANAGED_BY)}
    labels[SERVICE_NAME] = name_of(service)
    labels[MANAGED_BY] = OUR_NAME
    if spec_of(service).get("clusterIP") == "None":
        labels[HEADLESS] = ""
    return labels


def _of(service: Object, existing: Object) -> bool:
    """Whether a slice belongs to this very Service, not to a deleted one of its name."""
    owners = meta(existing).get("ownerReferences") or []
    return any(owner.get("uid") == uid_of(service) for owner in owners)


def _group_of(existing: Object) -> Group:
    ports = tuple(
        Port(
            p.get("name") or "", p.get("protocol") or "TCP", int(p["port"] or 0), p.get("appProtocol") or None
        )
        for p in existing.get("ports") or []
    )
    return str(existing.get("addressType")), ports


def _identity(endpoint: Mapping[str, Any]) -> tuple[str, ...]:
    target = endpoint.get("targetRef") or {}
    return str(target.get("uid")), *endpoint.get("addresses", ())


def _delete(existing: Object) -> Delete:
    return Delete(ENDPOINTSLICES, key_of(existing), uid_of(existing))
