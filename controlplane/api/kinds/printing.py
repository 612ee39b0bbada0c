"""Cells for `kubectl get`: what the columns of several kinds have in common.

Source: Kubernetes `pkg/printers/internalversion/printers.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.api.kinds.kind import Column
from netplane.kube.objects import Object, meta, name_of

NONE = "<none>"
UNKNOWN = "<unknown>"
UNSET = "<unset>"
MOST = 3
"""As many list elements as a cell shows before `+ N more...`."""


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


def created(obj: Object) -> str | None:
    """When the object was created."""
    return meta(obj).get("creationTimestamp")


def text(value: object, empty: str = NONE) -> str:
    """A string field, or `empty` if it is absent."""
    return str(value) if value else empty


NAME = Column("Name", "string", name_of, format="name", description="Name must be unique within a namespace.")
AGE = Column(
    "Age", "date", created, description="CreationTimestamp: when the server created this object, in UTC."
)
