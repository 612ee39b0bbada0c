"""Event (events.k8s.io/v1): the same objects as those of core/v1, in other words and with stricter rules.

Source: Kubernetes `pkg/apis/core/validation/events.go`, `pkg/apis/events/v1/conversion.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from controlplane.api.kinds import causes, events, names
from controlplane.api.kinds.kind import Kind, View
from controlplane.api.kinds.shapes import type_errors
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import Resource

EVENTS_V1 = Resource("events.k8s.io", "v1", "events", "Event", short_names=("ev",))
SHAPE = shape_of(EVENTS_V1)
TYPES = ("Normal", "Warning")
LONGEST, LONGEST_NOTE = 128, 1024

# What core/v1 calls it → what events.k8s.io/v1 calls it; every other field has one name.
_NAMES: Mapping[str, str] = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_FIXED = (
    *(
        "regarding",
        "reason",
        "note",
        "deprecatedSource",
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
    ),
    *(
        "deprecatedCount",
        "reportingController",
        "reportingInstance",
        "action",
        "related",
        "type",
        "eventTime",
    ),
)


def _renamed(obj: Object, words: Mapping[str, str], version: str) -> Object:
    return {**{words.get(field, field): value for field, value in obj.items()}, "apiVersion": version}


def show(event: Object) -> Object:
    """A stored Event as events.k8s.io/v1 has it; its time is always there, null where it was never given."""
    return {"eventTime": None, **_renamed(event, _NAMES, EVENTS_V1.api_version)}


def read(event: Object) -> Object:
    """And back."""
    return _renamed(event, {new: old for old, new in _NAMES.items()}, "v1")


def _causes(new: Object, old: Object | None) -> list[Cause]:
    return type_errors(SHAPE, new) or (_created(new) if old is None else _changed(new, old))


def _created(event: Object) -> list[Cause]:
    """Written by today's clients only, so nothing may be missing that they know."""
    found = [] if event.get("eventTime") else [causes.required("eventTime")]
    found += _controller(event.get("reportingController") or "")
    for field, longest in (("reportingInstance", LONGEST), ("action", LONGEST), ("reason", LONGEST)):
        found += _word(field, event.get(field) or "", longest)
    if len(event.get("note") or "") > LONGEST_NOTE:
        found.append(causes.invalid("message", "", f"can have at most {LONGEST_NOTE} characters"))
    if (kind := event.get("type") or "") not in TYPES:
        found.append(causes.invalid("type", "", f"has invalid value: {kind}"))
    series = event.get("series")
    if series is not None:
        found += _series(series)
    return found


def _controller(name: str) -> list[Cause]:
    if not name:
        return [causes.required("reportingController")]
    wrong = names.qualified_name(name)
    return [causes.invalid("reportingController", name, wrong)] if wrong else []


def _word(field: str, word: str, longest: int) -> list[Cause]:
    if not word:
        return [causes.required(field)]
    return (
        [causes.invalid(field, "", f"can have at most {longest} characters")] if len(word) > longest else []
    )


def _series(series: Mapping[str, Any]) -> list[Cause]:
    found = []
    if (series.get("count") or 0) < 2:
        found.append(causes.invalid("series.count", "", "should be at least 2"))
    if not series.get("lastObservedTime"):
        found.append(causes.required("series.lastObservedTime"))
    return found


def _changed(new: Object, old: Object) -> list[Cause]:
    """Only the series of an Event goes on."""
    changed = [field for field in _FIXED if (new.get(field) or None) != (old.get(field) or None)]
    core = {word: name for name, word in _NAMES.items()}
    return [causes.invalid(core.get(field, field), new.get(field), causes.IMMUTABLE) for field in changed]


def _fields(event: Object) -> Mapping[str, str]:
    """By which this version selects; of a stored Event."""
    stored = events.KIND.fields(event)
    found = {field: stored[field] for field in ("metadata.name", "metadata.namespace", "reason", "type")}
    found["reportingController"] = stored["reportingComponent"]
    involved = "involvedObject."
    return found | {
        f"regarding.{field.removeprefix(involved)}": value
        for field, value in stored.items()
        if field.startswith(involved)
    }


KIND: Kind = replace(
    events.KIND,
    resource=EVENTS_V1,
    validate=_causes,
    fields=_fields,
    view=View(EVENTS_V1, replace(events.KIND, fields=_fields), show, read),
)
