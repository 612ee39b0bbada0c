"""DELETE, of one object and of a collection: at once, or in two steps where somebody must finish first.

Source: Kubernetes' pod lifecycle ("Termination of Pods"), "Finalizers", "Garbage Collection".
"""

from dataclasses import replace
from typing import Any

from controlplane.api.memory.records import Record
from controlplane.api.reading.reads import Listing
from controlplane.api.writing import lifecycle
from controlplane.api.writing.lifecycle import DeleteOptions
from controlplane.api.writing.transactions import Act, Decision, transact
from controlplane.api.writing.writes import Machinery, Order, check_user
from netplane.kube.errors import StatusError, not_found, refused
from netplane.kube.objects import Object, name_of, uid_of
from netplane.kube.resources import JOBS, NAMESPACES, Resource

# NamespaceLifecycle's: the cluster cannot be without them.
IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
# batch/v1 alone keeps the default that everything had before garbage collection (Job's strategy.go).
JOBS_ORPHAN = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them "
    "or set propagationPolicy=Orphan to suppress this warning"
)


async def delete(machinery: Machinery, order: Order, options: DeleteOptions) -> Object:
    """Delete one object. The answer is a Status if it is gone, the object if it waits. Raises StatusError."""
    route = order.route
    if order.resource == JOBS and not options.propagation:
        options = replace(options, propagation="Orphan")
        order.warnings.append(JOBS_ORPHAN)

    def decide(record: Record | None) -> Decision:
        if record is None:
            raise not_found(order.resource, route.name)
        old, obj = record.copy(), record.copy()
        check_user(order, old)
        if order.resource == NAMESPACES and route.name in IMMORTAL:
            raise refused(NAMESPACES, route.name, "this namespace may not be deleted")
        outcome = lifecycle.delete(order.resource, obj, options, machinery.clock())
        if outcome.removed:
            return Decision(Act.REMOVE, obj)
        return Decision(Act.KEEP if lifecycle.same(obj, old) else Act.PUT, obj)

    hub = machinery.hub
    decision = await transact(hub, order.kind, route.namespace, route.name, decide, dry_run=order.dry_run)
    gone = decision.act is Act.REMOVE
    return success(order.resource, decision.obj) if gone else decision.obj


async def delete_collection(
    machinery: Machinery, order: Order, listing: Listing, options: DeleteOptions
) -> None:
    """Delete every object of a listing; one that is gone already is fine. Raises StatusError."""
    for record in listing.records:
        metadata: dict[str, Any] = record.obj["metadata"]
        route = replace(order.route, namespace=metadata.get("namespace", ""), name=metadata["name"])
        try:
            await delete(machinery, replace(order, route=route), options)
        except StatusError as error:
            if error.reason != "NotFound":
                raise


def success(resource: Resource, obj: Object) -> Object:
    """The Status that says the object is gone; `kubectl delete` waits for this ``uid``."""
    details: dict[str, Any] = {"name": name_of(obj), "kind": resource.plural, "uid": uid_of(obj)}
    if resource.group:
        details["group"] = resource.group
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }
