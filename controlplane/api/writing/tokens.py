"""``serviceaccounts/token``: a token for an account, as `kubectl create token` asks for it.

Nothing is stored. A token ends by itself, with its account, or with the pod, Secret or Node it is bound to.
Source: Kubernetes `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/apis/authentication/validation`.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from controlplane.api.kinds import causes
from controlplane.api.kinds.shapes import type_errors
from controlplane.api.memory.records import key_for
from controlplane.api.reading import reads
from controlplane.api.requests.callers import BOUND
from controlplane.api.schema.published import shape_of
from controlplane.api.writing.writes import Machinery, Order
from controlplane.auth.tokens import Claims, Issuer, Named
from netplane.kube.errors import Cause, StatusError, bad_request, conflict, invalid, not_found
from netplane.kube.objects import Object, meta, rfc3339, uid_of
from netplane.kube.resources import PODS, Resource

TOKEN_REQUESTS = Resource("authentication.k8s.io", "v1", "tokenrequests", "TokenRequest")
DEFAULT_SECONDS = 3600
LEAST_SECONDS, MOST_SECONDS = 600, 1 << 32


def request_token(machinery: Machinery, issuer: Issuer, order: Order, body: Object) -> Object:
    """POST a TokenRequest: the same with its status, the token. Raises StatusError 400, 404, 409 or 422."""
    route = order.route
    if wrong := type_errors(shape_of(TOKEN_REQUESTS), body):
        raise invalid(TOKEN_REQUESTS, "", wrong)
    if mismatch := _mismatch(meta(body), route.namespace, route.name):
        raise invalid(TOKEN_REQUESTS, route.name, [mismatch])
    account = reads.get(machinery.hub, order.kind, route.namespace, route.name).obj
    spec = body.get("spec") or {}
    seconds = DEFAULT_SECONDS if spec.get("expirationSeconds") is None else spec["expirationSeconds"]
    if wrong := _seconds_causes(seconds):
        raise invalid(TOKEN_REQUESTS, "", wrong)
    reference = spec.get("boundObjectRef")
    bound = _bound(machinery, order, reference) if reference else {}
    now = machinery.clock()
    claims = Claims(
        namespace=route.namespace,
        account=Named(route.name, uid_of(account)),
        audiences=tuple(spec.get("audiences") or (issuer.name,)),
        issued=now,
        expires=now + timedelta(seconds=seconds),
        bound=bound,
    )
    status: dict[str, Any] = {"token": "", "expirationTimestamp": rfc3339(claims.expires)}
    if not order.dry_run:
        status["token"] = issuer.issue(claims)
    return {
        "kind": TOKEN_REQUESTS.kind,
        "apiVersion": TOKEN_REQUESTS.api_version,
        "metadata": {"name": route.name, "namespace": route.namespace, "creationTimestamp": rfc3339(now)},
        "spec": {
            "audiences": list(claims.audiences),
            "expirationSeconds": seconds,
            "boundObjectRef": reference,
        },
        "status": status,
    }


def _mismatch(sent: Mapping[str, Any], namespace: str, name: str) -> Cause | None:
    for field, said, meant in (
        ("name", sent.get("name"), name),
        ("namespace", sent.get("namespace"), namespace),
    ):
        if said and said != meant:
            detail = f"must match the service account {field} if specified"
            return causes.invalid(f"metadata.{field}", said, detail)
    return None


def _seconds_causes(seconds: int) -> list[Cause]:
    if seconds < LEAST_SECONDS:
        detail = "may not specify a duration less than 10 minutes"
    elif seconds > MOST_SECONDS:
        detail = "may not specify a duration larger than 2^32 seconds"
    else:
        return []
    return [causes.invalid("spec.expirationSeconds", seconds, detail)]


def _bound(machinery: Machinery, order: Order, reference: Mapping[str, Any]) -> dict[str, Named]:
    """What the token ends with, by kind; of a pod also the node it is on. Raises StatusError 400, 404 or 409."""
    version, kind = reference.get("apiVersion") or "", reference.get("kind") or ""
    group = version.rpartition("/")[0]
    resource = BOUND.get(kind.lower()) if not group and kind in ("Pod", "Secret", "Node") else None
    if resource is None:
        which = version if group else f"/{version}"
        raise bad_request(f"cannot bind token to object of type {which}, Kind={kind}")
    name = reference.get("name") or ""
    obj = _get(machinery, resource, order.route.namespace, name)
    said = reference.get("uid")
    if resource is PODS and _account_of(obj) != order.route.name:
        raise bad_request(
            f'cannot bind token for serviceaccount "{order.route.name}" to pod running with different '
            "serviceaccount name."
        )
    if said and said != uid_of(obj):
        raise _replaced(resource, name, said)
    found = {kind.lower(): Named(name, uid_of(obj))}
    node = str((obj.get("spec") or {}).get("nodeName") or "") if resource is PODS else ""
    record = machinery.hub.get(BOUND["node"], key_for(BOUND["node"], "", node))
    return {**found, "node": Named(node, uid_of(record.obj))} if record is not None else found


def _get(machinery: Machinery, resource: Resource, namespace: str, name: str) -> Object:
    where = namespace if resource.namespaced else ""
    record = machinery.hub.get(resource, key_for(resource, where, name))
    if record is None:
        raise not_found(resource, name)
    return record.obj


def _account_of(pod: Object) -> str:
    return str((pod.get("spec") or {}).get("serviceAccountName") or "")


def _replaced(resource: Resource, name: str, said: str) -> StatusError:
    text = (
        f"the UID in the bound object reference ({said}) does not match the UID in record. "
        "The object might have been deleted and then recreated"
    )
    return conflict(resource, name, text)
