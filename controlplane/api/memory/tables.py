"""``as=Table``: what `kubectl get` prints, computed where the columns are known.

Source: ``metav1.Table`` and, for ages, ``apimachinery/pkg/util/duration.HumanDuration``.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from controlplane.api.kinds.kind import Column, Kind, Since
from netplane.kube.objects import Object, meta, parse_time

_DAY = 24 * 3600
_YEAR = 365 * _DAY


def cells(kind: Kind, obj: Object) -> tuple[object, ...]:
    """What an object's row holds: the columns' values, before anybody knows how late it is."""
    return tuple(column.value(obj) for column in kind.columns)


def table(
    kind: Kind,
    rows: Iterable[tuple[Sequence[object], object]],
    list_meta: dict[str, Any],
    *,
    version: str,
    now: datetime,
) -> Object:
    """A Table whose rows are objects' `cells`, and what each row carries beside them (None: nothing)."""
    dates = [column.type == "date" for column in kind.columns]
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": list_meta,
        "columnDefinitions": [_definition(column) for column in kind.columns],
        "rows": [_row(values, dates, carried, now) for values, carried in rows],
    }


def partial(obj: Object, version: str = "v1") -> Object:
    """``PartialObjectMetadata``: an object's metadata alone."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": meta(obj),
    }


def _definition(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": "string" if column.type == "date" else column.type,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    }


def _row(values: Sequence[object], dates: Sequence[bool], carried: object, now: datetime) -> dict[str, Any]:
    shown = [_shown(value, date, now) for value, date in zip(values, dates, strict=True)]
    return {"cells": shown} if carried is None else {"cells": shown, "object": carried}


def _shown(value: object, date: bool, now: datetime) -> object:
    if isinstance(value, Since):
        return value.form.format(age(value.when, parse_time(value.until) if value.until else now))
    return age(value, now) if date else value


def age(timestamp: object, now: datetime) -> str:
    """How long ago an RFC 3339 time was, as kubectl writes it; "<unknown>" without one."""
    if not isinstance(timestamp, str):
        return "<unknown>"
    try:
        passed = now.astimezone(UTC) - parse_time(timestamp)
    except ValueError:
        return "<invalid>"
    return duration(int(passed.total_seconds()))


def duration(seconds: int) -> str:
    """Two units at most, the smaller one only while it matters: 119s, 5m30s, 3h20m, 2d5h, 400d, 3y10d."""
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    for limit, unit, symbol, small, small_symbol in (
        (600, 60, "m", 1, "s"),
        (3 * 3600, 60, "m", 0, ""),
        (8 * 3600, 3600, "h", 60, "m"),
        (2 * _DAY, 3600, "h", 0, ""),
        (8 * _DAY, _DAY, "d", 3600, "h"),
        (2 * _YEAR, _DAY, "d", 0, ""),
        (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    ):
        if seconds < limit:
            rest = seconds % unit // small if small else 0
            return f"{seconds // unit}{symbol}" + (f"{rest}{small_symbol}" if rest else "")
    return f"{seconds // _YEAR}y"
