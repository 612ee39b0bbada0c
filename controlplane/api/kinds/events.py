"""Event (core/v1): what happened to an object, for people.

Source: Kubernetes `pkg/apis/core/validation/events.go` and, for the row, `printers.go` printEvent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import defaulting, validating
from controlplane.api.kinds.printing import created
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, name_of, namespace_of
from netplane.kube.resources import EVENTS

EVENT = shape_of(EVENTS)
CLUSTER_SCOPED_NAMESPACE = "default"


def _default(_event: Object) -> None:
    """An Event has no defaults."""


def _causes(new: Object, _old: Object | None) -> list[Cause]:
    """An Event lives beside its object; those of cluster-scoped objects in `default`."""
    involved = new.get("involvedObject") or {}
    namespace, own = involved.get("namespace") or "", namespace_of(new)
    if namespace == own or (not namespace and own == CLUSTER_SCOPED_NAMESPACE):
        return []
    return [causes.invalid("involvedObject.namespace", namespace, "does not match event.namespace")]


def _involved(event: Object) -> Mapping[str, Any]:
    return event.get("involvedObject") or {}


def _first_seen(event: Object) -> str | None:
    return event.get("firstTimestamp") or event.get("eventTime") or created(event)


def _last_seen(event: Object) -> str | None:
    series = event.get("series") or {}
    return series.get("lastObservedTime") or event.get("lastTimestamp") or _first_seen(event)


def _count(event: Object) -> int:
    return int((event.get("series") or {}).get("count") or event.get("count") or 1)


def _target(event: Object) -> str:
    involved = _involved(event)
    kind = str(involved.get("kind") or "").lower()
    return f"{kind}/{involved['name']}" if involved.get("name") else kind


def _source(event: Object) -> str:
    source = event.get("source") or {}
    component = source.get("component") or event.get("reportingComponent") or ""
    host = source.get("host") or event.get("reportingInstance") or ""
    return f"{component}, {host}" if host else str(component)


def _fields(event: Object) -> Mapping[str, str]:
    involved, source = _involved(event), event.get("source") or {}
    reporting = event.get("reportingComponent") or ""
    return {
        "metadata.name": name_of(event),
        "metadata.namespace": namespace_of(event),
        **{
            f"involvedObject.{field}": involved.get(field) or ""
            for field in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        },
        "reason": event.get("reason") or "",
        "reportingComponent": reporting,
        "source": source.get("component") or reporting,
        "type": event.get("type") or "",
    }


KIND = Kind(
    resource=EVENTS,
    default=defaulting(EVENT, _default),
    validate=validating(EVENTS, EVENT, _causes, names.dns_subdomain),
    columns=(
        Column("Last Seen", "date", _last_seen, description="Time when this event was last observed"),
        Column("Type", "string", lambda event: event.get("type") or ""),
        Column("Reason", "string", lambda event: event.get("reason") or ""),
        Column("Object", "string", _target),
        Column("Subobject", "string", lambda event: _involved(event).get("fieldPath") or "", 1),
        Column("Source", "string", _source, 1),
        Column("Message", "string", lambda event: str(event.get("message") or "").strip()),
        Column("First Seen", "date", _first_seen, 1, description="Time when this event was first observed"),
        Column("Count", "integer", _count, 1),
        Column("Name", "string", name_of, 1, format="name"),
    ),
    fields=_fields,
)
