"""Server-side apply: PATCH with a configuration instead of a change.

Source: "Server-Side Apply" of the Kubernetes documentation; ``apiserver/pkg/endpoints/handlers/patch.go``.
"""

from typing import Any

from controlplane.api.kinds.shapes import unknown
from controlplane.api.memory.records import Record
from controlplane.api.ownership import managers, tracking
from controlplane.api.schema.published import shape_of
from controlplane.api.writing import lifecycle
from controlplane.api.writing.transactions import Decision, transact
from controlplane.api.writing.writes import Machinery, Order, alteration, check_fields, creation, drafted
from netplane.kube.errors import bad_request, conflict, not_found
from netplane.kube.objects import Object, meta, rfc3339


async def apply(machinery: Machinery, order: Order, config: Any) -> tuple[Object, bool]:
    """Make ``config`` so: the object, and whether it is new. Raises StatusError; 409 for fields of others."""
    route, kind = order.route, order.kind
    _check(order, config)
    shape, now = shape_of(order.resource), rfc3339(machinery.clock())
    me = tracking.applier(order.manager, order.resource.api_version, route.subresource)
    door = "status" in kind.subresources

    new = False

    def decide(record: Record | None) -> Decision:
        nonlocal new
        new = record is None
        live = record.copy() if record is not None else None
        applied = tracking.applied(shape, live, config, me, now, force=order.force, status=door)
        owners = managers.encode(applied.managers)
        if record is not None:
            return alteration(machinery, order, applied.obj, record, owners)
        _check_new(order, config)
        draft = drafted(machinery, order, config)
        tracking.put(draft, owners)
        return creation(machinery, order, draft)

    hub, name = machinery.hub, route.name
    decision = await transact(hub, kind, route.namespace, name, decide, dry_run=order.dry_run)
    if not route.subresource:
        order.warnings.extend(kind.warnings(decision.obj))
    return decision.obj, new


def _check(order: Order, config: Any) -> None:
    """What can be said of a configuration before it meets the object. Raises StatusError 400."""
    route = order.route
    if not isinstance(config, dict):
        raise bad_request("cannot apply: the configuration must be an object")
    if not config.get("apiVersion") or not config.get("kind"):
        raise bad_request("cannot apply: apiVersion and kind must be set")
    lifecycle.check_identity(order.resource, config, route.namespace, route.name)
    if config["metadata"].get(tracking.FIELD):
        raise bad_request("metadata.managedFields must be nil")
    paths = unknown(shape_of(order.resource), config)
    if paths:
        where = f"{route.namespace}/{route.name}" if route.namespace else route.name
        which = f"{order.resource.group}/{order.resource.version}, Kind={order.resource.kind}"
        wrong = [f".{path}: field not declared in schema" for path in paths]
        listed = wrong[0] if len(wrong) == 1 else "errors:\n" + "".join(f"  {each}\n" for each in wrong)
        raise bad_request(f"failed to create typed patch object ({where}; {which}): {listed}")
    check_fields(order, config)


def _check_new(order: Order, config: Object) -> None:
    route = order.route
    if route.subresource:
        raise not_found(order.resource, route.name)
    if uid := meta(config).get("uid"):
        text = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        raise conflict(order.resource, route.name, text)
