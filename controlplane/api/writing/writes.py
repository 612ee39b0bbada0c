"""POST, PUT and PATCH: body → defaults → rules → one commit.

The order of the steps is the Kinds' contract (`kinds.kind`); a write that changes nothing commits nothing.

What the steps fill in goes into a copy: who loses a race for a node port decides again on what was sent, so that a
port it did not ask for is chosen anew, and none of its defaults counts as sent.
"""

import secrets
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controlplane.api.kinds.kind import Kind
from controlplane.api.kinds.shapes import prune, unknown
from controlplane.api.memory.hub import Hub
from controlplane.api.memory.records import Record
from controlplane.api.ownership import tracking
from controlplane.api.ownership.managers import UPDATE, Manager
from controlplane.api.requests.route import Route
from controlplane.api.schema.published import shape_of
from controlplane.api.writing import lifecycle, patch
from controlplane.api.writing.admission import Admission
from controlplane.api.writing.transactions import Act, Decision, transact
from controlplane.auth.authn import User
from controlplane.auth.authz import restriction
from netplane.kube.errors import StatusError, already_exists, bad_request, invalid, not_found, refused
from netplane.kube.objects import Object, name_of, new_uid, rfc3339
from netplane.kube.resources import Resource

GENERATE_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Machinery:
    """What every write needs of the server."""

    hub: Hub
    admission: Admission
    clock: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Order:
    """One request to write: where, by whom, how strictly; ``warnings`` are for the answer's headers.

    ``repeated`` is what to say of the fields that the body has twice (`strict.repeated`). ``manager`` owns what is
    written; an apply with ``force`` takes from others what they own.
    """

    route: Route
    user: User
    dry_run: bool = False
    validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)
    repeated: Sequence[str] = ()
    manager: str = "netplane"
    force: bool = False

    @property
    def kind(self) -> Kind:
        """The kind written to."""
        return self.route.kind

    @property
    def resource(self) -> Resource:
        """The resource written to."""
        return self.route.kind.resource

    @property
    def writer(self) -> Manager:
        """Who owns the fields that an update writes."""
        return Manager(self.manager, UPDATE, self.resource.api_version, self.route.subresource)


async def create(machinery: Machinery, order: Order, obj: Object) -> Object:
    """POST an object into its collection. Raises StatusError."""
    kind, namespace = order.kind, order.route.namespace
    lifecycle.check_identity(order.resource, obj, namespace, "")
    check_fields(order, obj)
    generated = not obj["metadata"].get("name")
    for attempt in range(GENERATE_ATTEMPTS):
        draft = drafted(machinery, order, obj)
        name = name_of(draft)

        def decide(record: Record | None, draft: Object = draft, name: str = name) -> Decision:
            if record is not None:
                raise already_exists(order.resource, name)
            return creation(machinery, order, draft)

        try:
            decision = await transact(machinery.hub, kind, namespace, name, decide, dry_run=order.dry_run)
        except StatusError as error:
            if generated and error.reason == "AlreadyExists" and attempt + 1 < GENERATE_ATTEMPTS:
                continue
            raise
        order.warnings.extend(kind.warnings(decision.obj))
        return decision.obj
    raise AssertionError("the last attempt answers or raises")


def drafted(machinery: Machinery, order: Order, obj: Object) -> Object:
    """A new object as it would be stored, but for what `creation` asks of the cluster. Raises StatusError 400."""
    kind, now = order.kind, machinery.clock()
    draft = deepcopy(obj)
    lifecycle.stamp_new(draft, now, new_uid(), _suffix())
    kind.default(draft)
    owners = tracking.created(shape_of(order.resource), draft, order.writer, rfc3339(now))
    kind.prepare_create(draft)
    tracking.put(draft, owners)
    return draft


def creation(machinery: Machinery, order: Order, draft: Object) -> Decision:
    """The commit of a new object. Raises StatusError 403, 404 or 422."""
    new = deepcopy(draft)
    place = machinery.admission.place(order.kind, new)
    _judge(order, new, None)
    return Decision(Act.PUT, new, (*place, *machinery.admission.claim(order.kind, new, None)))


async def replace(machinery: Machinery, order: Order, obj: Object) -> Object:
    """PUT an object or its status. Raises StatusError."""
    lifecycle.check_identity(order.resource, obj, order.route.namespace, order.route.name)
    check_fields(order, obj)

    def change(record: Record) -> Object:
        return obj

    return await update(machinery, order, change)


async def apply_patch(machinery: Machinery, order: Order, content_type: str, body: Any) -> Object:
    """PATCH an object or its status. Raises StatusError."""

    def change(record: Record) -> Object:
        patched = patch.apply(content_type, record.copy(), body, shape_of(order.resource))
        lifecycle.check_identity(order.resource, patched, order.route.namespace, order.route.name)
        check_fields(order, patched)
        return patched

    return await update(machinery, order, change)


async def update(machinery: Machinery, order: Order, change: Callable[[Record], Object]) -> Object:
    """Write what ``change`` makes of the stored object, by the rules of the route's subresource."""
    kind, route = order.kind, order.route

    def decide(record: Record | None) -> Decision:
        if record is None:
            raise not_found(order.resource, route.name)
        return alteration(machinery, order, change(record), record)

    hub = machinery.hub
    decision = await transact(hub, kind, route.namespace, route.name, decide, dry_run=order.dry_run)
    if not route.subresource:
        order.warnings.extend(kind.warnings(decision.obj))
    return decision.obj


def alteration(
    machinery: Machinery,
    order: Order,
    changed: Object,
    record: Record,
    owners: list[dict[str, Any]] | None = None,
) -> Decision:
    """The commit of a changed object; ``owners`` are its managedFields where the caller knows. Raises StatusError."""
    kind, new, old = order.kind, deepcopy(changed), record.copy()
    lifecycle.carry_over(order.resource, new, old)
    sent = new["metadata"].pop(tracking.FIELD, None)
    kind.default(new)
    prepare = kind.prepare_status if order.route.subresource == "status" else kind.prepare_update
    prepare(new, old)
    _judge(order, new, old)
    if owners is None:
        now, shape = rfc3339(machinery.clock()), shape_of(order.resource)
        owners = tracking.updated(shape, new, old, order.writer, now, sent)
    tracking.put(new, owners)
    guards = machinery.admission.claim(kind, new, old)
    if lifecycle.finished(order.resource, new):
        return Decision(Act.REMOVE, new, guards)
    if lifecycle.same(new, old):
        return Decision(Act.KEEP, old)
    return Decision(Act.PUT, new, guards)


def _judge(order: Order, new: Object, old: Object | None) -> None:
    """Permission by content, then validity. Raises StatusError 403 or 422."""
    check_user(order, old if old is not None else new)
    if old is not None and order.route.subresource == "status":
        causes = order.kind.validate_status(new, old)
    else:
        causes = order.kind.validate(new, old)
    if causes:
        raise invalid(order.resource, name_of(new), causes)


def check_user(order: Order, obj: Object) -> None:
    """Raises StatusError 403 where the object is not this user's to write."""
    route, resource = order.route, order.resource
    reason = restriction(order.user, route.verb, resource.group, resource.plural, route.subresource, obj)
    if reason:
        raise refused(resource, name_of(obj), reason)


def check_fields(order: Order, obj: Object) -> None:
    """``fieldValidation``: Strict refuses fields the kind does not have, Warn names them; they are never stored.

    Fields that the body repeats count as well. Raises StatusError 400.
    """
    shape = shape_of(order.resource)
    paths = unknown(shape, obj)
    if paths:
        prune(shape, obj)
    if order.validation == "Ignore":
        return
    wrong = [f'unknown field "{path}"' for path in paths]
    wrong = [*order.repeated, *wrong] if order.route.verb == "patch" else [*wrong, *order.repeated]
    if wrong and order.validation == "Strict":
        raise bad_request(f"strict decoding error: {', '.join(wrong)}")
    order.warnings[:] = wrong


def _suffix() -> str:
    return "".join(secrets.choice(lifecycle.SUFFIX_LETTERS) for _ in range(lifecycle.SUFFIX_LENGTH))
