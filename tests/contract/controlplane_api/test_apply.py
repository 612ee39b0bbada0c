"""Server-side apply, ownership and the OpenAPI documents over HTTPS, as kubectl and controllers ask for them."""

import copy

import orjson
import pytest

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
WEB = "/apis/apps/v1/namespaces/default/deployments/web"
CONFIG = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "web", "image": "netplane/echo", "ports": [{"containerPort": 80}]}]
            },
        },
    },
}


def config(**spec):
    changed = copy.deepcopy(CONFIG)
    changed["spec"].update(spec)
    return {**changed, "spec": {name: value for name, value in changed["spec"].items() if value is not None}}


async def apply(server, body, manager="alice", **query):
    return await server.call("PATCH", WEB, body, kind=APPLY, fieldManager=manager, **query)


def entries(obj):
    return {
        (e["manager"], e["operation"], e.get("subresource", "")) for e in obj["metadata"]["managedFields"]
    }


async def test_apply_creates_then_changes_then_is_quiet(server) -> None:
    created = await apply(server, CONFIG)
    assert created.code == 201
    assert created.body["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] == "TCP"
    assert entries(created.body) == {("alice", "Apply", "")}
    changed = await apply(server, config(replicas=3))
    assert (changed.code, changed.body["spec"]["replicas"], changed.body["metadata"]["generation"]) == (
        200,
        3,
        2,
    )
    before = server.store.revision
    again = await apply(server, config(replicas=3))
    assert again.body == changed.body
    assert server.store.revision == before


async def test_yaml_is_understood_and_a_dry_run_stores_nothing(server) -> None:
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  day: '2026-01-01'\n"
    path = "/api/v1/namespaces/default/configmaps/c"
    answer = await server.call("PATCH", path, text, kind=APPLY, fieldManager="m", dryRun="All")
    assert (answer.code, answer.body["data"]) == (201, {"day": "2026-01-01"})
    assert (await server.refused("GET", path)).code == 404


async def test_conflicts_force_and_giving_up(server) -> None:
    await apply(server, CONFIG)
    await server.ok("PATCH", WEB, {"spec": {"replicas": 5}}, kind=MERGE, fieldManager="editor")
    refused = await apply(server, CONFIG)
    assert refused.code == 409
    assert refused.body["reason"] == "Conflict"
    (cause,) = refused.body["details"]["causes"]
    assert cause["reason"] == "FieldManagerConflict"
    assert cause["field"] == ".spec.replicas"
    assert cause["message"].startswith('conflict with "editor" using apps/v1 at 20')
    given_up = await apply(server, config(replicas=None))
    assert given_up.body["spec"]["replicas"] == 5
    forced = await apply(server, CONFIG, force="true")
    assert forced.body["spec"]["replicas"] == 2
    assert entries(forced.body) == {("alice", "Apply", "")}


async def test_omission_removes_and_the_default_comes_back(server) -> None:
    await apply(server, config(minReadySeconds=7))
    left = await apply(server, config(replicas=None))
    assert left.body["spec"]["replicas"] == 1
    assert left.body["spec"].get("minReadySeconds", 0) == 0


async def test_every_door_is_an_owner_of_its_own(server) -> None:
    await server.ok("POST", WEB.rpartition("/")[0], CONFIG, fieldManager="maker")
    status = {"status": {"replicas": 1, "observedGeneration": 1}}
    await server.ok("PATCH", f"{WEB}/status", status, kind=MERGE, fieldManager="controller")
    scale = {"spec": {"replicas": 4}}
    await server.ok("PATCH", f"{WEB}/scale", scale, kind=MERGE, fieldManager="scaler")
    obj = await server.ok("GET", WEB)
    assert entries(obj) == {
        ("maker", "Update", ""),
        ("controller", "Update", "status"),
        ("scaler", "Update", "scale"),
    }
    maker = next(e for e in obj["metadata"]["managedFields"] if e["manager"] == "maker")
    assert "f:replicas" not in maker["fieldsV1"]["f:spec"]
    assert "f:status" not in maker["fieldsV1"]


async def test_a_client_that_drops_managed_fields_does_not_lose_them_and_may_edit_them(server) -> None:
    made = await server.ok("POST", WEB.rpartition("/")[0], CONFIG, fieldManager="maker")
    bare = copy.deepcopy(made)
    del bare["metadata"]["managedFields"]
    put = await server.ok("PUT", WEB, bare, fieldManager="other")
    assert put["metadata"] == made["metadata"]
    (entry,) = made["metadata"]["managedFields"]
    operations = [
        {"op": "replace", "path": "/metadata/managedFields", "value": [{**entry, "manager": "new"}]}
    ]
    moved = await server.ok("PATCH", WEB, operations, kind=JSON_PATCH)
    assert entries(moved) == {("new", "Update", "")}


@pytest.mark.parametrize(
    ("body", "query", "code", "cause"),
    [
        (CONFIG, {}, 422, "fieldManager: Required value: is required for apply patch"),
        (CONFIG, {"fieldManager": "x" * 129}, 422, "at most 128 printable characters"),
        ([1], {"fieldManager": "m"}, 400, "must be an object"),
        ({"metadata": {"name": "web"}}, {"fieldManager": "m"}, 400, "apiVersion and kind must be set"),
        (
            {**CONFIG, "metadata": {"name": "other"}},
            {"fieldManager": "m"},
            400,
            "does not match the name on the URL",
        ),
        (
            {**CONFIG, "metadata": {"name": "web", "managedFields": [{}]}},
            {"fieldManager": "m"},
            400,
            "metadata.managedFields must be nil",
        ),
        (
            config(replica=1),
            {"fieldManager": "m"},
            400,
            "(default/web; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema",
        ),
        (
            {**CONFIG, "metadata": {"name": "web", "uid": "7"}},
            {"fieldManager": "m"},
            409,
            "uid mismatch: the provided object specified uid 7, and no existing object was found",
        ),
        (
            config(template={"spec": {}}),
            {"fieldManager": "m"},
            422,
            "spec.template.spec.containers: Required value",
        ),
    ],
)
async def test_an_apply_that_cannot_be_is_refused_with_the_cause(server, body, query, code, cause) -> None:
    error = await server.refused("PATCH", WEB, body, kind=APPLY, **query)
    assert error.code == code
    assert cause in str(error)


async def test_applying_to_the_status_of_what_is_not_there(server) -> None:
    error = await server.refused("PATCH", f"{WEB}/status", CONFIG, kind=APPLY, fieldManager="m")
    assert error.code == 404


async def test_a_delete_whose_body_says_dry_run_is_one(server) -> None:
    await apply(server, CONFIG)
    await server.ok("DELETE", WEB, {"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]})
    await server.ok("GET", WEB)
    error = await server.refused("DELETE", WEB, {"dryRun": ["Some"]})
    assert (error.code, "dryRun: Unsupported value" in str(error)) == (400, True)


async def test_openapi_index_and_documents(server) -> None:
    index = await server.ok("GET", "/openapi/v3")
    url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
    path, _, digest = url.partition("?hash=")
    found = await server.call("GET", path, hash=digest)
    assert found.headers["Cache-Control"].startswith("public, immutable")
    assert found.headers["Etag"] == f'"{digest}"'
    document = found.body
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {
        "group": "apps",
        "version": "v1",
        "kind": "Deployment",
    }
    assert patch["x-kubernetes-action"] == "patch"
    assert {p["name"] for p in patch["parameters"]} == {"dryRun", "fieldManager", "fieldValidation", "force"}
    schemas = document["components"]["schemas"]
    containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["type"] == "array"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    kinds = schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"]
    assert kinds == [{"group": "apps", "version": "v1", "kind": "Deployment"}]


async def test_every_reference_in_every_document_is_in_it(server) -> None:
    index = await server.ok("GET", "/openapi/v3")
    assert {"api/v1", "apis/apps/v1", "apis/batch/v1"} <= index["paths"].keys()
    for name in index["paths"]:
        document = await server.ok("GET", f"/openapi/v3/{name}")
        text = orjson.dumps(document).decode()
        wanted = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
        assert wanted <= document["components"]["schemas"].keys()
        assert '"null"' not in text


async def test_old_hashes_lead_to_the_new_document_and_unchanged_ones_are_not_sent_again(server) -> None:
    session = server.session("kubernetes-admin", "system:masters")
    async with session.get("/openapi/v3/api/v1?hash=OLD", allow_redirects=False) as moved:
        assert moved.status == 301
        where = moved.headers["Location"]
    async with session.get(where) as found:
        tag = found.headers["ETag"]
    async with session.get("/openapi/v3/api/v1", headers={"If-None-Match": tag}) as same:
        assert (same.status, await same.read()) == (304, b"")
    assert (await server.refused("GET", "/openapi/v3/apis/none/v1")).code == 404
