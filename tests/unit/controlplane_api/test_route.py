"""What a method and a path mean, and the two ways in which they may mean nothing."""

import pytest

from controlplane.api.requests.route import catalog, find
from netplane.kube.errors import StatusError
from tests.unit.controlplane_api.plain_kinds import PLAIN

KINDS = catalog(PLAIN)

ROUTES = [
    ("GET", "/api/v1/pods", ("pods", "list", "", "", "")),
    ("GET", "/api/v1/namespaces/a/pods", ("pods", "list", "a", "", "")),
    ("GET", "/api/v1/namespaces/a/pods/x", ("pods", "get", "a", "x", "")),
    ("POST", "/api/v1/namespaces/a/pods", ("pods", "create", "a", "", "")),
    ("PUT", "/api/v1/namespaces/a/pods/x", ("pods", "update", "a", "x", "")),
    ("PATCH", "/api/v1/namespaces/a/pods/x/status", ("pods", "patch", "a", "x", "status")),
    ("DELETE", "/api/v1/namespaces/a/pods/x", ("pods", "delete", "a", "x", "")),
    ("DELETE", "/api/v1/namespaces/a/pods", ("pods", "deletecollection", "a", "", "")),
    ("POST", "/api/v1/namespaces/a/pods/x/binding", ("pods", "create", "a", "x", "binding")),
    ("GET", "/api/v1/namespaces", ("namespaces", "list", "", "", "")),
    ("GET", "/api/v1/namespaces/a", ("namespaces", "get", "", "a", "")),
    ("PUT", "/api/v1/namespaces/a/finalize", ("namespaces", "update", "", "a", "finalize")),
    ("PATCH", "/api/v1/namespaces/a/status", ("namespaces", "patch", "", "a", "status")),
    ("GET", "/apis/apps/v1/namespaces/a/deployments/x/scale", ("deployments", "get", "a", "x", "scale")),
]


@pytest.mark.parametrize(("method", "path", "want"), ROUTES)
def test_a_path_is_a_resource_and_a_method_is_a_verb(method, path, want) -> None:
    route = find(KINDS, method, path)
    assert (route.kind.resource.plural, route.verb, route.namespace, route.name, route.subresource) == want


def test_watch_is_a_list_or_a_get_that_stays() -> None:
    assert find(KINDS, "GET", "/api/v1/pods", watch=True).verb == "watch"
    assert find(KINDS, "GET", "/api/v1/namespaces/a/pods/x", watch=True).verb == "watch"
    assert find(KINDS, "POST", "/api/v1/namespaces/a/pods", watch=True).verb == "create"


NOWHERE = [
    ("GET", "/api/v1/gadgets", 404),
    ("GET", "/apis/nope/v1/pods", 404),
    ("GET", "/apis/apps/v2/deployments", 404),
    ("GET", "/api/v1/pods/x", 404),  # a pod has a namespace
    ("GET", "/api/v1/namespaces/a/pods/x/scale", 404),
    ("GET", "/api/v1/namespaces/a/pods/x/status/y", 404),
    ("GET", "/apis/apps/v1", 404),
    ("POST", "/api/v1/pods", 405),
    ("DELETE", "/api/v1/pods", 405),
    ("PUT", "/api/v1/namespaces/a/pods", 405),
    ("POST", "/api/v1/namespaces/a/pods/x", 405),
    ("GET", "/api/v1/namespaces/a/pods/x/binding", 405),
    ("BREW", "/api/v1/namespaces/a/pods/x", 405),
]


@pytest.mark.parametrize(("method", "path", "code"), NOWHERE)
def test_what_is_not_served_is_404_or_405(method, path, code) -> None:
    with pytest.raises(StatusError) as raised:
        find(KINDS, method, path)
    assert raised.value.code == code
