"""Kinds that accept anything, for tests of the machinery alone."""

from controlplane.api.kinds.kind import Column, Kind
from netplane.kube.objects import name_of, namespace_of
from netplane.kube.resources import DEPLOYMENTS, NAMESPACES, PODS


def fields(obj):
    spec = obj.get("spec") or {}
    return {
        "metadata.name": name_of(obj),
        "metadata.namespace": namespace_of(obj),
        "spec.nodeName": spec.get("nodeName", ""),
    }


COLUMNS = (
    Column("Name", "string", name_of),
    Column("Age", "date", lambda obj: (obj.get("metadata") or {}).get("creationTimestamp")),
    Column("Node", "string", lambda obj: fields(obj)["spec.nodeName"], priority=1),
)


def plain(resource, *subresources):
    return Kind(
        resource,
        default=lambda obj: None,
        validate=lambda new, old: [],
        columns=COLUMNS,
        fields=fields,
        subresources=frozenset(subresources),
    )


PLAIN_PODS = plain(PODS, "status", "binding", "eviction", "log")
PLAIN_NAMESPACES = plain(NAMESPACES, "status", "finalize")
PLAIN_DEPLOYMENTS = plain(DEPLOYMENTS, "status", "scale")
PLAIN = (PLAIN_PODS, PLAIN_NAMESPACES, PLAIN_DEPLOYMENTS)
