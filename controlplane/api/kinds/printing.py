"""Rows for `kubectl get`: the cells that every kind's Table shares, and ages as kubectl spells them.

Source: Kubernetes `pkg/printers/internalversion/printers.go` and `apimachinery/pkg/util/duration`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from controlplane.api.kinds.kind import Column, Kind, Since
from netplane.kube.objects import Object, name_of, parse_time

NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"
MOST = 3
"""As many list elements as a cell shows before `+ N more...`."""


def cells(kind: Kind, obj: Object, now: datetime) -> list[object]:
    """The row of one object, all columns, ready for JSON."""
    return [_rendered(column.value(obj), now) for column in kind.columns]


def definitions(kind: Kind) -> list[dict[str, object]]:
    """The Table's `columnDefinitions`."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in kind.columns
    ]


def _rendered(value: object, now: datetime) -> object:
    return value.form.format(age(value.when, now)) if isinstance(value, Since) else value


def age(when: str | None, now: datetime) -> str:
    """How long ago `when` was, as kubectl says it; `<unknown>` without a time."""
    if not when:
        return UNKNOWN
    try:
        return human_duration((now - parse_time(when)).total_seconds())
    except (ValueError, TypeError):
        return UNKNOWN


def human_duration(elapsed: float) -> str:
    """`duration.HumanDuration`: two units while the second one still says something."""
    seconds = int(elapsed)
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    return _days(hours)


def _days(hours: int) -> str:
    days = hours // 24
    if hours < 24 * 8:
        return _two(days, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{days}d"
    if hours < 24 * 365 * 8:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(first: int, first_unit: str, second: int, second_unit: str) -> str:
    return f"{first}{first_unit}{second}{second_unit}" if second else f"{first}{first_unit}"


def labels_text(labels: object) -> str:
    """`a=b,c=d`, sorted; `<none>` without labels."""
    if not isinstance(labels, Mapping) or not labels:
        return NONE
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def some_of(items: Iterable[str], empty: str) -> str:
    """The first three, then how many more there are; `empty` if there are none."""
    listed = list(items)
    if not listed:
        return empty
    text = ",".join(listed[:MOST])
    more = len(listed) - MOST
    return f"{text} + {more} more..." if more > 0 else text


NAME = Column("Name", "string", name_of, format="name", description="Name must be unique within a namespace.")
AGE = Column(
    "Age",
    "string",
    lambda obj: Since((obj.get("metadata") or {}).get("creationTimestamp")),
    description="CreationTimestamp is the time at which the server created this object, in UTC.",
)
