"""May this user make this request: the rights table, asked with what the request means and what is stored.

Source: kube-apiserver's ``request/requestinfo.go`` (a field selector on the name is a name) and its Node authorizer.
"""

from collections.abc import Iterable, Mapping

from controlplane.api.requests.route import Route
from controlplane.auth.authn import User
from controlplane.auth.authz import allowed, unrelated
from netplane.kube.errors import StatusError, forbidden
from netplane.kube.objects import Object
from netplane.kube.selectors import FieldSelector


def authorize(user: User, route: Route, query: Mapping[str, str], pods: Iterable[Object]) -> None:
    """Raises StatusError 403. ``pods`` are all pods: whose node a caller may be decides what it may read."""
    resource, name = route.kind.resource, name_meant(route, query)
    plural = f"{resource.plural}/{route.subresource}" if route.subresource else resource.plural
    if not allowed(
        user, route.verb, resource.group, resource.plural, route.subresource, route.namespace, name
    ):
        raise forbidden(user.name, route.verb, resource.group, plural, route.namespace, route.name)
    if why := unrelated(user, resource, route.namespace, name, pods):
        refusal = forbidden(user.name, route.verb, resource.group, plural, route.namespace, name)
        raise StatusError(403, refusal.reason, f"{refusal.message}: {why}", refusal.details)


def name_meant(route: Route, query: Mapping[str, str]) -> str:
    """The one object that the request is about, "" if it may be about several."""
    if route.name or route.verb not in ("list", "watch"):
        return route.name
    try:
        return FieldSelector.parse(query.get("fieldSelector", "")).required("metadata.name") or ""
    except ValueError:
        return ""  # the selector's own error is told by whoever uses it
