"""Objects over HTTPS: create, read, change, delete, and the Status that says what was wrong."""

import asyncio

import orjson
import pytest

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def pod(name="x", **spec):
    containers = [{"name": "c", "image": "netplane/echo"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": containers, **spec},
    }


def service(name, **spec):
    ports = [{"port": 80}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": "web"}, "ports": ports, **spec},
    }


def deployment(name="web", replicas=2):
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod()["spec"]}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


async def test_a_created_object_is_defaulted_stamped_and_readable(server) -> None:
    answer = await server.call("POST", PODS, pod())
    assert answer.code == 201
    made = answer.body
    assert made["metadata"]["uid"]
    assert made["metadata"]["creationTimestamp"].endswith("Z")
    assert made["metadata"]["namespace"] == "default"
    assert made["spec"]["restartPolicy"] == "Always"
    assert made["spec"]["enableServiceLinks"] is True
    assert made["status"]["phase"] == "Pending"
    assert await server.ok("GET", f"{PODS}/x") == made
    listed = await server.ok("GET", PODS)
    assert (listed["kind"], listed["items"]) == ("PodList", [made])
    assert int(listed["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])


async def test_yaml_is_a_body_too(server) -> None:
    text = b"apiVersion: v1\nkind: Namespace\nmetadata: {name: from-yaml}\n"
    made = await server.ok("POST", "/api/v1/namespaces", text, kind="application/yaml")
    assert made["metadata"]["name"] == "from-yaml"


async def test_a_name_is_generated_where_only_its_beginning_is_given(server) -> None:
    draft = pod()
    draft["metadata"] = {"generateName": "web-"}
    names = {(await server.ok("POST", PODS, draft))["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


async def test_an_update_must_know_the_version_it_changes(server) -> None:
    made = await server.ok("POST", PODS, pod())
    made["metadata"]["labels"] = {"a": "b"}
    changed = await server.ok("PUT", f"{PODS}/x", made)
    assert changed["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
    error = await server.refused("PUT", f"{PODS}/x", made)
    assert (error.code, error.reason) == (409, "Conflict")
    assert "the object has been modified" in str(error)


async def test_a_write_that_changes_nothing_keeps_the_version(server) -> None:
    made = await server.ok("POST", PODS, pod())
    assert await server.ok("PUT", f"{PODS}/x", made) == made
    patched = await server.ok("PATCH", f"{PODS}/x", {"spec": {"restartPolicy": "Always"}}, kind=MERGE)
    assert patched == made


async def test_of_many_concurrent_patches_none_is_lost(server) -> None:
    await server.ok("POST", PODS, pod())
    patches = [{"metadata": {"labels": {f"l{i}": "1"}}} for i in range(12)]
    await asyncio.gather(*(server.ok("PATCH", f"{PODS}/x", patch, kind=MERGE) for patch in patches))
    labels = (await server.ok("GET", f"{PODS}/x"))["metadata"]["labels"]
    assert labels == {f"l{i}": "1" for i in range(12)}


async def test_status_and_spec_have_a_door_each(server) -> None:
    made = await server.ok("POST", PODS, pod())
    body = {
        "status": {"phase": "Running"},
        "metadata": {"labels": {"not": "here"}},
        "spec": {"nodeName": "n9"},
    }
    patched = await server.ok("PATCH", f"{PODS}/x/status", body, kind=STRATEGIC)
    assert patched["status"]["phase"] == "Running"
    assert patched["spec"] == made["spec"]
    other = await server.ok("PATCH", f"{PODS}/x", {"status": {"phase": "Failed"}}, kind=MERGE)
    assert other["status"]["phase"] == "Running"


async def test_generation_counts_changes_of_the_spec_only(server) -> None:
    await server.ok("POST", DEPLOYMENTS, deployment())
    labelled = await server.ok(
        "PATCH", f"{DEPLOYMENTS}/web", {"metadata": {"labels": {"a": "b"}}}, kind=MERGE
    )
    assert labelled["metadata"]["generation"] == 1
    scaled = await server.ok("PATCH", f"{DEPLOYMENTS}/web", {"spec": {"replicas": 5}}, kind=MERGE)
    assert scaled["metadata"]["generation"] == 2
    status = await server.ok("PATCH", f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 5}}, kind=MERGE)
    assert (status["metadata"]["generation"], status["status"]["replicas"]) == (2, 5)


async def test_scale_reads_and_writes_the_replicas(server) -> None:
    await server.ok("POST", DEPLOYMENTS, deployment())
    scale = await server.ok("GET", f"{DEPLOYMENTS}/web/scale")
    assert (scale["kind"], scale["apiVersion"], scale["spec"]["replicas"]) == ("Scale", "autoscaling/v1", 2)
    assert scale["status"]["selector"] == "app=web"
    scale["spec"]["replicas"] = 4
    assert (await server.ok("PUT", f"{DEPLOYMENTS}/web/scale", scale))["spec"]["replicas"] == 4
    patched = await server.ok("PATCH", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 1}}, kind=MERGE)
    assert patched["spec"]["replicas"] == 1
    assert (await server.ok("GET", f"{DEPLOYMENTS}/web"))["spec"]["replicas"] == 1
    error = await server.refused("PATCH", f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": -1}}, kind=MERGE)
    assert (error.code, error.details["causes"][0]["field"]) == (422, "spec.replicas")


async def test_a_pod_is_bound_once(server) -> None:
    await server.ok("POST", PODS, pod())
    binding = {"metadata": {"name": "x"}, "target": {"kind": "Node", "name": "n1"}}
    assert (await server.call("POST", f"{PODS}/x/binding", binding)).code == 201
    bound = await server.ok("GET", f"{PODS}/x")
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    error = await server.refused("POST", f"{PODS}/x/binding", binding)
    assert error.code == 409
    assert "already assigned to node n1" in str(error)
    nameless = await server.refused("POST", f"{PODS}/x/binding", {"target": {}})
    assert nameless.details["causes"][0]["field"] == "target.name"


async def test_a_running_pod_is_deleted_in_two_steps(server) -> None:
    made = await server.ok("POST", PODS, pod(nodeName="n1"))
    dying = await server.ok("DELETE", f"{PODS}/x")
    assert dying["kind"] == "Pod"
    assert dying["metadata"]["deletionGracePeriodSeconds"] == 30
    assert dying["metadata"]["deletionTimestamp"]
    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": "another"}}
    assert (await server.refused("DELETE", f"{PODS}/x", options)).code == 409
    options["preconditions"]["uid"] = made["metadata"]["uid"]
    gone = await server.ok("DELETE", f"{PODS}/x", options)
    assert (gone["status"], gone["details"]["uid"]) == ("Success", made["metadata"]["uid"])
    assert (await server.refused("GET", f"{PODS}/x")).reason == "NotFound"


async def test_an_unscheduled_pod_goes_at_once(server) -> None:
    await server.ok("POST", PODS, pod())
    assert (await server.ok("DELETE", f"{PODS}/x"))["status"] == "Success"


async def test_a_finalizer_holds_an_object_until_it_is_taken_off(server) -> None:
    draft = deployment()
    draft["metadata"]["finalizers"] = ["example.com/hold"]
    await server.ok("POST", DEPLOYMENTS, draft)
    held = await server.ok("DELETE", f"{DEPLOYMENTS}/web", propagationPolicy="Foreground")
    assert held["metadata"]["finalizers"] == ["example.com/hold", "foregroundDeletion"]
    await server.ok("PATCH", f"{DEPLOYMENTS}/web", {"metadata": {"finalizers": None}}, kind=MERGE)
    assert (await server.refused("GET", f"{DEPLOYMENTS}/web")).code == 404


async def test_a_collection_is_deleted_by_selector(server) -> None:
    for name, app in (("a", "web"), ("b", "web"), ("c", "db")):
        draft = pod(name)
        draft["metadata"]["labels"] = {"app": app}
        await server.ok("POST", PODS, draft)
    deleted = await server.ok("DELETE", PODS, labelSelector="app=web")
    assert len(deleted["items"]) == 2
    assert [item["metadata"]["name"] for item in (await server.ok("GET", PODS))["items"]] == ["c"]


async def test_a_namespace_dies_last_and_takes_nothing_new(server) -> None:
    await server.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
    dying = await server.ok("DELETE", "/api/v1/namespaces/shop")
    assert dying["status"]["phase"] == "Terminating"
    error = await server.refused("POST", "/api/v1/namespaces/shop/pods", pod())
    assert (error.code, error.details["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    dying["spec"]["finalizers"] = []
    await server.ok("PUT", "/api/v1/namespaces/shop/finalize", dying)
    assert (await server.refused("GET", "/api/v1/namespaces/shop")).code == 404


async def test_the_clusters_own_namespaces_stay(server) -> None:
    error = await server.refused("DELETE", "/api/v1/namespaces/kube-system")
    assert (error.code, error.reason) == (403, "Forbidden")


async def test_dry_runs_answer_and_change_nothing(server) -> None:
    before = server.store.revision
    made = await server.ok("POST", PODS, pod(), dryRun="All")
    assert made["spec"]["restartPolicy"] == "Always"
    assert (await server.refused("GET", f"{PODS}/x")).code == 404
    await server.ok("POST", SERVICES, service("s", type="NodePort"), dryRun="All")
    assert server.store.revision == before
    await server.ok("POST", PODS, pod())
    before = server.store.revision
    await server.ok("DELETE", f"{PODS}/x", dryRun="All")
    await server.ok("PATCH", f"{PODS}/x", {"metadata": {"labels": {"a": "b"}}}, kind=MERGE, dryRun="All")
    assert server.store.revision == before


async def test_unknown_fields_are_refused_named_or_ignored(server) -> None:
    draft = pod(prot=80)
    error = await server.refused("POST", PODS, draft, fieldValidation="Strict")
    assert (error.code, str(error)) == (400, 'strict decoding error: unknown field "spec.prot"')
    warned = await server.call("POST", PODS, draft, fieldValidation="Warn", dryRun="All")
    assert warned.headers["Warning"] == '299 - "unknown field \\"spec.prot\\""'
    ignored = await server.call("POST", PODS, draft, fieldValidation="Ignore")
    assert "Warning" not in ignored.headers
    assert "prot" not in ignored.body["spec"]
    labelled = {"metadata": {"labels": {"a": "b"}}}
    await server.ok("PATCH", f"{PODS}/x", labelled, kind=MERGE, fieldValidation="Strict")
    worse = {"spec": {"colour": "red"}}
    error = await server.refused("PATCH", f"{PODS}/x", worse, kind=MERGE, fieldValidation="Strict")
    assert str(error) == 'strict decoding error: unknown field "spec.colour"'


async def test_fields_said_twice_are_refused_or_named(server) -> None:
    body = orjson.dumps(pod()).replace(b'"spec":{', b'"spec":{"nodeName":"a","nodeName":"b",')
    error = await server.refused("POST", PODS, body, fieldValidation="Strict")
    assert str(error) == 'strict decoding error: duplicate field "spec.nodeName"'
    warned = await server.call("POST", PODS, body, dryRun="All")
    assert warned.headers["Warning"] == '299 - "duplicate field \\"spec.nodeName\\""'
    assert warned.body["spec"]["nodeName"] == "b"
    text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  a: x\n  a: y\n"
    error = await server.refused(
        "POST", PODS.replace("pods", "configmaps"), text, kind="application/yaml", fieldValidation="Strict"
    )
    assert 'line 6: key "a" already set in map' in str(error)


async def test_node_ports_and_cluster_addresses_are_given_once(server) -> None:
    drafts = [service(f"s{i}", type="NodePort") for i in range(20)]
    made = await asyncio.gather(*(server.ok("POST", SERVICES, draft) for draft in drafts))
    assert len({s["spec"]["clusterIP"] for s in made}) == 20
    assert len({s["spec"]["ports"][0]["nodePort"] for s in made}) == 20
    port = made[0]["spec"]["ports"][0]["nodePort"]
    wanting = service("late", type="NodePort", ports=[{"port": 80, "nodePort": port}])
    error = await server.refused("POST", SERVICES, wanting)
    assert error.code == 422
    assert error.details["causes"][0]["field"] == "spec.ports[0].nodePort"
    assert (await server.refused("GET", f"{SERVICES}/late")).code == 404


def _changes_to_node_port(name):
    """Each way to turn a ClusterIP Service into a NodePort one: (method, content type, body)."""
    ports = [{"port": 80, "protocol": "TCP"}]
    whole = service(name, type="NodePort", ports=ports)
    return {
        "PUT": ("PUT", "application/json", whole),
        "merge": ("PATCH", MERGE, {"spec": {"type": "NodePort", "ports": ports}}),
        "strategic": ("PATCH", STRATEGIC, {"spec": {"type": "NodePort", "ports": ports}}),
        "json": (
            "PATCH",
            "application/json-patch+json",
            [
                {"op": "replace", "path": "/spec/type", "value": "NodePort"},
                {"op": "replace", "path": "/spec/ports", "value": ports},
            ],
        ),
        "apply": ("PATCH", "application/apply-patch+yaml", whole),
    }


@pytest.mark.parametrize("node_ports", [range(30000, 30024)])
@pytest.mark.parametrize("way", ["POST", "PUT", "merge", "strategic", "json", "apply"])
async def test_who_loses_a_race_for_a_port_it_did_not_ask_for_gets_another(server, way) -> None:
    names = [f"s{i}" for i in range(20)]
    if way == "POST":
        calls = [server.ok("POST", SERVICES, service(name, type="NodePort")) for name in names]
    else:
        for name in names:
            await server.ok("POST", SERVICES, service(name), fieldManager="me")
        calls = []
        for name in names:
            method, kind, body = _changes_to_node_port(name)[way]
            more = {"force": "true"} if way == "apply" else {}
            calls.append(server.ok(method, f"{SERVICES}/{name}", body, kind=kind, fieldManager="me", **more))
    made = await asyncio.gather(*calls)
    assert len({s["spec"]["ports"][0]["nodePort"] for s in made}) == 20


async def test_racers_for_one_node_port_have_one_winner(server) -> None:
    drafts = [service(f"s{i}", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]) for i in range(10)]
    answers = await asyncio.gather(*(server.call("POST", SERVICES, draft) for draft in drafts))
    assert sorted(answer.code for answer in answers) == [201] + [422] * 9


def node(name, address, machine):
    return {
        "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "nodeInfo": {"machineID": machine},
        },
    }


async def test_a_second_node_with_the_same_name_or_address_is_refused(server) -> None:
    for name, address in (("n1", "192.0.2.11"), ("n2", "192.0.2.12")):
        await server.ok("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        await server.ok(
            "PATCH", f"/api/v1/nodes/{name}/status", node(name, address, f"m-{name}"), kind=STRATEGIC
        )
    body = node("n2", "192.0.2.11", "m-n2")
    error = await server.refused("PATCH", "/api/v1/nodes/n2/status", body, kind=STRATEGIC)
    assert error.code == 422
    assert "InternalIP 192.0.2.11 is in use by node n1, so node n2 cannot have it" in str(error)
    body = node("n1", "192.0.2.11", "another-machine")
    error = await server.refused("PATCH", "/api/v1/nodes/n1/status", body, kind=STRATEGIC)
    assert "machine m-n1" in str(error)
    assert "machine another-machine" in str(error)
    assert (
        await server.refused("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
    ).reason == "AlreadyExists"


BAD = [
    ("POST", PODS, b"{", {}, 400, "cannot read the body as application/json"),
    ("POST", PODS, b"[]", {}, 400, "must be an object"),
    ("POST", PODS, b"", {}, 400, "must be an object"),
    ("POST", PODS, b"x", {"kind": "application/vnd.kubernetes.protobuf"}, 400, "protobuf message"),
    (
        "PATCH",
        f"{PODS}/x",
        b"{}",
        {"kind": "application/apply-patch+yaml"},
        422,
        "fieldManager: Required value",
    ),
    ("PATCH", f"{PODS}/x", b"{}", {"kind": "text/plain"}, 415, "text/plain"),
    (
        "PATCH",
        f"{PODS}/x",
        b"{}",
        {"kind": "application/merge-patch+json", "force": "true"},
        422,
        "force: Forbidden",
    ),
    ("POST", PODS, {"kind": "Service"}, {}, 400, "kind in the data (Service)"),
    ("POST", PODS, {"metadata": {"namespace": "other", "name": "x"}}, {}, 400, "metadata.namespace"),
    ("POST", PODS, {"metadata": {}}, {}, 400, "metadata.name"),
    ("POST", PODS, {"metadata": {"name": "x", "resourceVersion": "7"}}, {}, 400, "metadata.resourceVersion"),
    ("POST", PODS, {"metadata": {"name": "Not Valid"}, "spec": pod()["spec"]}, {}, 422, "metadata.name"),
    ("POST", PODS, {"metadata": {"name": "x"}, "spec": {}}, {}, 422, "spec.containers"),
    ("POST", PODS, {"metadata": {"name": "x"}, "spec": 7}, {}, 422, "spec"),
    ("POST", PODS.replace("default", "nowhere"), pod(), {}, 404, 'namespaces "nowhere" not found'),
    ("GET", PODS, None, {"fieldSelector": "spec.color=red"}, 400, "spec.color"),
    ("GET", PODS, None, {"labelSelector": "a=b=c"}, 400, "a=b=c"),
    ("GET", PODS, None, {"limit": "x"}, 400, "limit"),
    ("GET", PODS, None, {"continue": "x"}, 400, "continue"),
    ("GET", PODS, None, {"resourceVersion": "999999"}, 504, "Too large resource version"),
    ("GET", PODS, None, {"watch": "sure"}, 400, "watch"),
    ("GET", PODS, None, {"accept": "text/html"}, 406, "media types"),
    ("POST", PODS, pod(), {"dryRun": "Some"}, 400, "dryRun"),
    ("POST", PODS, pod(), {"fieldValidation": "Hard"}, 400, "fieldValidation"),
    ("DELETE", f"{PODS}/x", {"gracePeriodSeconds": "soon"}, {}, 400, "gracePeriodSeconds"),
    ("GET", "/api/v1/gadgets", None, {}, 404, "could not find the requested resource"),
    ("GET", "/nowhere", None, {}, 404, "could not find the requested resource"),
    ("DELETE", "/api/v1/pods", None, {}, 405, "does not allow this method"),
    ("POST", "/version", b"", {}, 405, "does not allow this method"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "more", "code", "named"), BAD, ids=[f"{b[0]} {b[4]} {b[5]}" for b in BAD]
)
async def test_bad_input_is_a_status_that_names_it(server, method, path, body, more, code, named) -> None:
    before = server.store.revision
    error = await server.refused(method, path, body, **more)
    assert error.code == code
    assert named in str(error)
    assert server.store.revision == before


async def test_a_body_that_is_too_large_is_413(server) -> None:
    draft = pod()
    draft["metadata"]["annotations"] = {"a": "x" * 4_000_000}
    answer = await server.call("POST", PODS, draft)
    assert (answer.code, answer.body["kind"]) == (413, "Status")


async def test_pages_are_of_one_moment(server) -> None:
    for name in "abcde":
        await server.ok("POST", PODS, pod(name))
    first = await server.ok("GET", PODS, limit="2")
    assert [i["metadata"]["name"] for i in first["items"]] == ["a", "b"]
    assert first["metadata"]["remainingItemCount"] == 3
    await server.ok("DELETE", f"{PODS}/c")
    await server.ok("POST", PODS, pod("cc"))
    token = first["metadata"]["continue"]
    rest = await server.ok("GET", PODS, limit="2", **{"continue": token})
    assert [i["metadata"]["name"] for i in rest["items"]] == ["c", "d"]
    assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    last = await server.ok("GET", PODS, limit="2", **{"continue": rest["metadata"]["continue"]})
    assert [i["metadata"]["name"] for i in last["items"]] == ["e"]
    assert "continue" not in last["metadata"]
    exact = await server.ok(
        "GET", PODS, resourceVersion=first["metadata"]["resourceVersion"], resourceVersionMatch="Exact"
    )
    assert len(exact["items"]) == 5
    await server.store.compact(server.store.revision)
    error = await server.refused("GET", PODS, limit="2", **{"continue": token})
    assert (error.code, error.reason) == (410, "Expired")


async def test_pages_of_a_selection_are_full(server) -> None:
    for index, name in enumerate("abcdef"):
        draft = pod(name)
        draft["metadata"]["labels"] = {"even": str(index % 2 == 0)}
        await server.ok("POST", PODS, draft)
    first = await server.ok("GET", PODS, limit="1", labelSelector="even=True")
    assert "remainingItemCount" not in first["metadata"]
    rest = await server.ok(
        "GET", PODS, limit="5", labelSelector="even=True", **{"continue": first["metadata"]["continue"]}
    )
    assert [i["metadata"]["name"] for i in rest["items"]] == ["c", "e"]


async def test_a_table_has_kubectls_columns(server) -> None:
    await server.ok("POST", PODS, pod())
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    table = await server.ok("GET", PODS, accept=accept)
    names = [c["name"] for c in table["columnDefinitions"] if c["priority"] == 0]
    assert names == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert table["rows"][0]["cells"][:3] == ["x", "0/1", "Pending"]
    assert table["rows"][0]["object"]["metadata"]["name"] == "x"


async def test_the_server_publishes_itself_and_the_dns_service(server) -> None:
    namespaces = {n["metadata"]["name"] for n in (await server.ok("GET", "/api/v1/namespaces"))["items"]}
    assert namespaces == {"default", "kube-system", "kube-public", "kube-node-lease"}
    own = await server.ok("GET", f"{SERVICES}/kubernetes")
    assert own["spec"]["clusterIP"] == "10.96.0.1"
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    (found,) = (await server.ok("GET", slices, labelSelector="kubernetes.io/service-name=kubernetes"))[
        "items"
    ]
    assert found["endpoints"][0]["addresses"] == ["192.0.2.10"]
    assert found["ports"][0]["port"] == 6443
    dns = await server.ok("GET", "/api/v1/namespaces/kube-system/services/kube-dns")
    assert dns["spec"]["clusterIP"] == "10.96.0.10"
    assert dns["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] == "netplane-dns"


@pytest.mark.parametrize(
    ("policy", "left"),
    [("Foreground", ["foregroundDeletion"]), ("Orphan", ["orphan"]), ("Background", None), (None, None)],
)
async def test_each_propagation_policy_leaves_what_the_collector_looks_for(server, policy, left) -> None:
    await server.ok("POST", DEPLOYMENTS, deployment())
    body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy} if policy else None
    answer = await server.ok("DELETE", f"{DEPLOYMENTS}/web", body)
    if left is None:
        assert (answer["kind"], answer["status"]) == ("Status", "Success")
        assert (await server.refused("GET", f"{DEPLOYMENTS}/web")).code == 404
    else:
        assert answer["metadata"]["finalizers"] == left
        assert answer["metadata"]["deletionTimestamp"]


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
async def test_a_delete_with_preconditions_hits_only_what_was_meant(server, field) -> None:
    made = await server.ok("POST", DEPLOYMENTS, deployment())
    wrong = {"preconditions": {field: "1"}}
    error = await server.refused("DELETE", f"{DEPLOYMENTS}/web", wrong)
    assert (error.code, error.reason) == (409, "Conflict")
    await server.ok("DELETE", f"{DEPLOYMENTS}/web", {"preconditions": {field: made["metadata"][field]}})
    assert (await server.refused("GET", f"{DEPLOYMENTS}/web")).code == 404
