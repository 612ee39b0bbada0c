"""Writes by a kind's second name (Events of events.k8s.io): judged in its words, stored in those of the first.

Server-side apply is refused by name: owners of fields would have to be told in both words, for objects that nobody
applies.
"""

from dataclasses import replace
from typing import Any

from controlplane.api.kinds.kind import View
from controlplane.api.memory.records import Record
from controlplane.api.requests.bodies import APPLY_PATCH
from controlplane.api.schema.published import shape_of
from controlplane.api.writing import lifecycle, patch, writes
from controlplane.api.writing.writes import Machinery, Order
from netplane.kube.errors import invalid, unsupported_media_type
from netplane.kube.objects import Object, name_of


async def write(machinery: Machinery, order: Order, view: View, media: str, sent: Any) -> Object:
    """POST, PUT or PATCH in the view's words; the object as it is stored. Raises StatusError."""
    stored = replace(order, route=order.route.stored, repeated=(), validation="Ignore")
    if media == APPLY_PATCH:
        raise unsupported_media_type(media, patch.PATCHES)
    if order.route.verb == "create":
        _judge(order, sent, None)
        return await writes.create(machinery, stored, view.read(sent))

    def change(record: Record) -> Object:
        shown = view.show(record.copy())
        new = sent
        if order.route.verb == "patch":
            new = patch.apply(media, view.show(record.copy()), sent, shape_of(view.resource))
        _judge(order, new, shown)
        return view.read({**new, "metadata": dict(new["metadata"])})

    return await writes.update(machinery, stored, change)


def _judge(order: Order, new: Object, old: Object | None) -> None:
    """What the view's own words and rules say against it. Raises StatusError 400 or 422."""
    route = order.route
    lifecycle.check_identity(order.resource, new, route.namespace, route.name)
    writes.check_fields(order, new)
    if causes := order.kind.validate(new, old):
        raise invalid(order.resource, name_of(new), causes)
