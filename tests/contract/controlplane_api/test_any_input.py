"""Whatever a client sends, the answer is a Status about it, never a failure of the server's own."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DEFAULT = "/api/v1/namespaces/default"
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments"
JSON, MERGE, STRATEGIC = (
    "application/json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)
REQUESTS = [
    ("POST", f"{DEFAULT}/pods", JSON),
    ("POST", f"{DEFAULT}/services", JSON),
    ("POST", f"{DEFAULT}/endpoints", JSON),
    ("POST", f"{DEFAULT}/events", JSON),
    ("POST", DEPLOYMENT, JSON),
    ("POST", "/api/v1/nodes", JSON),
    ("POST", "/api/v1/namespaces", JSON),
    ("PUT", f"{DEFAULT}/services/s", JSON),
    ("PATCH", f"{DEFAULT}/services/s", MERGE),
    ("PATCH", f"{DEFAULT}/services/s", STRATEGIC),
    ("PATCH", f"{DEFAULT}/pods/x", STRATEGIC),
    ("PATCH", f"{DEFAULT}/pods/x", "application/json-patch+json"),
    ("PATCH", f"{DEFAULT}/pods/x/status", MERGE),
    ("PATCH", "/api/v1/nodes/n/status", STRATEGIC),
    ("POST", f"{DEFAULT}/pods/x/binding", JSON),
    ("POST", f"{DEFAULT}/pods/x/eviction", JSON),
    ("PUT", f"{DEPLOYMENT}/d/scale", JSON),
    ("PATCH", f"{DEPLOYMENT}/d/scale", MERGE),
    ("PUT", "/api/v1/namespaces/default/finalize", JSON),
    ("DELETE", f"{DEFAULT}/pods/x", JSON),
    ("POST", "/netplane/v1/join", JSON),
]
NAMES = st.sampled_from(
    [
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generateName",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "spec",
        "status",
        "containers",
        "ports",
        "port",
        "nodePort",
        "clusterIP",
        "clusterIPs",
        "type",
        "selector",
        "replicas",
        "target",
        "addresses",
        "address",
        "conditions",
        "template",
        "deleteOptions",
        "preconditions",
        "gracePeriodSeconds",
        "op",
        "path",
        "value",
        "from",
        "$patch",
        "$setElementOrder/ports",
        "$deleteFromPrimitiveList/finalizers",
        "nodeInfo",
        "subsets",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from(["", "x", "s", "v1", "Service"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=15,
)
BODIES = st.dictionaries(NAMES, VALUES, max_size=5) | VALUES


@pytest.fixture
async def filled(server):
    pod = {"spec": {"containers": [{"name": "c", "image": "i"}]}, "metadata": {"labels": {"a": "b"}}}
    await server.ok("POST", f"{DEFAULT}/pods", {**pod, "metadata": {"name": "x"}})
    service = {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}
    await server.ok("POST", f"{DEFAULT}/services", service)
    await server.ok("POST", "/api/v1/nodes", {"metadata": {"name": "n"}})
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": pod}
    await server.ok("POST", DEPLOYMENT, {"metadata": {"name": "d"}, "spec": spec})
    return server


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(bodies=st.lists(BODIES, min_size=len(REQUESTS), max_size=len(REQUESTS)))
async def test_any_json_in_any_place_is_never_a_500(filled, bodies) -> None:
    async def one(request, body):
        method, path, kind = request
        answer = await filled.call(method, path, body, kind=kind, dryRun="All")
        if path != "/netplane/v1/join":  # not connected in this fixture
            assert answer.code < 500, (request, body, answer.text)
        if answer.code >= 400:
            assert answer.body["kind"] == "Status"
            assert answer.body["message"]

    await asyncio.gather(*(one(request, body) for request, body in zip(REQUESTS, bodies, strict=True)))
