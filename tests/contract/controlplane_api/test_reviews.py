"""`kubectl auth whoami` and `can-i`: the answers are those of the table that decides."""

import pytest

SELF = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
ADMIN = ("kubernetes-admin", "system:masters")
NODE = ("system:node:n1", "system:nodes")


def question(**attributes):
    return {"spec": {"resourceAttributes": attributes}}


async def test_who_one_is(server) -> None:
    answer = await server.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, who=NODE)
    assert answer.code == 201
    info = answer.body["status"]["userInfo"]
    assert info == {"username": "system:node:n1", "groups": ["system:nodes", "system:authenticated"]}


@pytest.mark.parametrize(
    ("who", "asked", "may"),
    [
        (ADMIN, question(verb="delete", resource="nodes"), True),
        (ADMIN, question(verb="*", resource="*", group="*"), True),
        (NODE, question(verb="list", resource="pods"), True),
        (NODE, question(verb="create", resource="secrets", namespace="default"), False),
        (NODE, question(verb="patch", resource="nodes", subresource="status", name="n1"), True),
        (NODE, question(verb="patch", resource="nodes", subresource="status", name="n2"), False),
        (NODE, {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/apis"}}}, True),
        (NODE, {"spec": {"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}}, False),
    ],
)
async def test_what_one_may(server, who, asked, may) -> None:
    answer = await server.ok("POST", SELF, asked, who=who)
    assert answer["status"]["allowed"] is may
    assert answer["spec"] == asked["spec"]


async def test_what_another_may_is_asked_by_admins_only(server) -> None:
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    asked = {
        "spec": {
            "user": NODE[0],
            "groups": [NODE[1]],
            "resourceAttributes": {"verb": "get", "resource": "pods"},
        }
    }
    assert (await server.ok("POST", path, asked))["status"]["allowed"] is True
    assert (await server.refused("POST", path, asked, who=NODE)).code == 403


async def test_the_rules_are_listed(server) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    mine = await server.ok("POST", path, {"spec": {"namespace": "default"}}, who=NODE)
    rules = mine["status"]["resourceRules"]
    assert {"verbs": ["create"], "apiGroups": [""], "resources": ["nodes"]} in rules
    everything = await server.ok("POST", path, {"spec": {"namespace": "default"}})
    assert everything["status"]["resourceRules"][0] == {
        "verbs": ["*"],
        "apiGroups": ["*"],
        "resources": ["*"],
    }


@pytest.mark.parametrize(
    ("method", "body", "query", "code"),
    [
        ("POST", {"spec": {}}, {}, 422),
        ("POST", {"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}}, {}, 422),
        ("POST", {"spec": 7}, {}, 422),
        ("GET", None, {}, 405),
        ("POST", question(verb="get"), {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}, 406),
    ],
)
async def test_questions_that_are_none(server, method, body, query, code) -> None:
    assert (await server.refused(method, SELF, body, **query)).code == code
