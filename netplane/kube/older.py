"""The API's objects as servers have them that are older than the version we speak.

Why here: whoever follows a resource meets one shape only, whatever server it comes from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netplane.kube.objects import Object
from netplane.kube.resources import Resource

HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Older:
    """A resource as servers know it that lack the version we speak, and how its objects become ours."""

    resource: Resource
    modern: Callable[[Object], Object]


def slice_from_v1beta1(item: Object) -> Object:
    """An EndpointSlice of discovery.k8s.io/v1beta1 as one of v1.

    The node and the zone of an endpoint were two entries of its map ``topology`` (Kubernetes 1.16 to 1.24).
    """
    endpoints = [_endpoint(entry) for entry in item.get("endpoints") or []]
    return {**item, "apiVersion": "discovery.k8s.io/v1", "endpoints": endpoints}


def _endpoint(entry: dict[str, Any]) -> dict[str, Any]:
    modern = {key: value for key, value in entry.items() if key != "topology"}
    topology = entry.get("topology") or {}
    for field, label in (("nodeName", HOSTNAME), ("zone", ZONE)):
        if field not in modern and topology.get(label):
            modern[field] = topology[label]
    return modern


OLDER_ENDPOINTSLICES = Older(
    Resource("discovery.k8s.io", "v1beta1", "endpointslices", "EndpointSlice"), slice_from_v1beta1
)
