"""The shapes by which clients find resources: exact documents, exact media types."""

import pytest

from controlplane.api.discovery import Discovery
from netplane.kube.errors import StatusError
from tests.unit.controlplane_api.plain_kinds import PLAIN

DISCOVERY = Discovery(PLAIN, "192.0.2.1:6443")
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# What kubectl 1.32 sends.
KUBECTL = (
    f"{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
)


def test_the_old_form_lists_groups_versions_and_resources() -> None:
    versions, content_type = DISCOVERY.answer("/api", "application/json")
    assert (versions["kind"], versions["versions"], content_type) == (
        "APIVersions",
        ["v1"],
        "application/json",
    )
    groups, _ = DISCOVERY.answer("/apis", "")
    version = {"groupVersion": "apps/v1", "version": "v1"}
    assert groups["kind"] == "APIGroupList"
    assert groups["groups"] == [{"name": "apps", "versions": [version], "preferredVersion": version}]
    resources, _ = DISCOVERY.answer("/apis/apps/v1", "*/*")
    assert (resources["kind"], resources["groupVersion"]) == ("APIResourceList", "apps/v1")
    by_name = {entry["name"]: entry for entry in resources["resources"]}
    assert by_name["deployments"] == {
        "name": "deployments",
        "singularName": "deployment",
        "namespaced": True,
        "kind": "Deployment",
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "shortNames": ["deploy"],
        "categories": ["all"],
    }
    assert by_name["deployments/scale"] == {
        "name": "deployments/scale",
        "singularName": "",
        "namespaced": True,
        "kind": "Scale",
        "group": "autoscaling",
        "version": "v1",
        "verbs": ["get", "patch", "update"],
    }


def test_the_aggregated_form_echoes_its_media_type() -> None:
    document, content_type = DISCOVERY.answer("/apis", KUBECTL)
    assert content_type == AGGREGATED
    assert document["apiVersion"] == "apidiscovery.k8s.io/v2"
    (group,) = document["items"]
    assert group["metadata"]["name"] == "apps"
    (resource,) = group["versions"][0]["resources"]
    assert resource["responseKind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    assert resource["scope"] == "Namespaced"
    assert {s["subresource"] for s in resource["subresources"]} == {"status", "scale"}
    core, _ = DISCOVERY.answer("/api", KUBECTL)
    names = [r["resource"] for r in core["items"][0]["versions"][0]["resources"]]
    assert names == ["namespaces", "pods"]


def test_who_prefers_the_old_form_gets_it() -> None:
    assert DISCOVERY.answer("/apis", f"application/json,{AGGREGATED}")[0]["kind"] == "APIGroupList"
    old = AGGREGATED.replace("v=v2", "v=v1")
    assert DISCOVERY.answer("/apis", old)[0]["kind"] == "APIGroupList"


@pytest.mark.parametrize("path", ["/apis/nope", "/apis/apps/v9", "/api/v9", "/openapi/v3"])
def test_a_group_that_is_not_served_is_404(path) -> None:
    with pytest.raises(StatusError) as raised:
        DISCOVERY.answer(path, "")
    assert raised.value.code == 404
