"""Tokens of ServiceAccounts: asked for, used as a credential, reviewed, and ended with what they belong to."""

import tempfile
from pathlib import Path

import pytest

from netplane.kube.client import Client
from netplane.kube.errors import StatusError
from netplane.kube.kubeconfig import Kubeconfig

ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/till"
PODS = "/api/v1/namespaces/default/pods"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
NAME = "system:serviceaccount:default:till"
API = "https://kubernetes.default.svc.cluster.local"


@pytest.fixture
async def account(server):
    draft = {"metadata": {"name": "till"}}
    return await server.ok("POST", "/api/v1/namespaces/default/serviceaccounts", draft)


async def token_for(server, **spec) -> str:
    return (await server.ok("POST", f"{ACCOUNT}/token", {"spec": spec}))["status"]["token"]


async def call(server, token, method, path, **headers):
    """(code, body) of a request with the token as its only credential."""
    sent = {"Authorization": f"Bearer {token}", **headers}
    async with server.session().request(method, path, json={}, headers=sent) as response:
        return response.status, await response.json()


async def review(server, token, **spec):
    return (await server.ok("POST", REVIEWS, {"spec": {"token": token, **spec}}))["status"]


async def test_a_token_is_given_and_is_a_credential(server, account) -> None:
    answer = await server.call("POST", f"{ACCOUNT}/token", {})
    assert answer.code == 201
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("TokenRequest", "authentication.k8s.io/v1")
    assert answer.body["spec"] == {"audiences": [API], "expirationSeconds": 3600, "boundObjectRef": None}
    code, who = await call(server, answer.body["status"]["token"], "POST", WHO)
    info = who["status"]["userInfo"]
    assert (code, info["username"], info["uid"]) == (201, NAME, account["metadata"]["uid"])
    assert info["groups"] == [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ]


async def test_a_token_gives_its_accounts_rights_and_no_more(server, account) -> None:
    token = await token_for(server)
    assert (await call(server, token, "GET", "/apis"))[0] == 200
    code, said = await call(server, token, "GET", PODS)
    assert (code, said["reason"]) == (403, "Forbidden")
    assert f'User "{NAME}" cannot list resource "pods"' in said["message"]
    code, said = await call(server, token, "GET", PODS, **{"Impersonate-User": "kubernetes-admin"})
    assert (code, said["reason"]) == (403, "Forbidden")


async def test_a_bad_token_is_401_even_where_no_credential_is_needed(server) -> None:
    assert (await call(server, "guess", "GET", "/version"))[0] == 401


async def test_an_admin_acts_as_an_account(server, account) -> None:
    acting = {"Impersonate-User": NAME}
    async with server.session("kubernetes-admin", "system:masters").get(PODS, headers=acting) as response:
        assert response.status == 403


async def test_a_review_says_whose_a_token_is_and_for_whom(server, account) -> None:
    token = await token_for(server, audiences=["vault", "bank"])
    assert (await call(server, token, "POST", WHO))[0] == 401  # it is not meant for the API
    said = await review(server, token, audiences=["vault", "other"])
    assert (said["authenticated"], said["audiences"]) == (True, ["vault"])
    assert said["user"]["username"] == NAME
    for wrong in (await review(server, token), await review(server, "guess")):
        assert "authenticated" not in wrong
        assert "invalid bearer token" in wrong["error"]
    assert (await server.refused("POST", REVIEWS, {"spec": {}})).code == 400


async def test_a_token_ends_with_its_account(server, account) -> None:
    token = await token_for(server)
    await server.ok("DELETE", ACCOUNT)
    assert (await call(server, token, "POST", WHO))[0] == 401
    await server.ok("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "till"}})
    assert (await call(server, token, "POST", WHO))[0] == 401  # the same name is another account
    assert "serviceaccount is gone" in (await review(server, token))["error"]


async def test_a_token_ends_with_the_pod_it_is_bound_to(server, account) -> None:
    containers = [{"name": "c", "image": "netplane/echo"}]
    for name, runs_as in (("p", "till"), ("q", "default")):
        spec = {"containers": containers, "serviceAccountName": runs_as}
        await server.ok("POST", PODS, {"metadata": {"name": name}, "spec": spec})
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "p"}
    token = await token_for(server, boundObjectRef=bound)
    _, who = await call(server, token, "POST", WHO)
    assert who["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    await server.ok("DELETE", f"{PODS}/p", gracePeriodSeconds="0")
    assert (await call(server, token, "POST", WHO))[0] == 401


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({"spec": {"expirationSeconds": 599}}, 422, "may not specify a duration less than 10 minutes"),
        ({"spec": {"expirationSeconds": (1 << 32) + 1}}, 422, "larger than 2^32 seconds"),
        ({"spec": {"expirationSeconds": "x"}}, 422, "spec.expirationSeconds"),
        ({"metadata": {"name": "other"}}, 422, "must match the service account name if specified"),
        ({"metadata": {"namespace": "other"}}, 422, "must match the service account namespace if specified"),
        (
            {"spec": {"boundObjectRef": {"kind": "ConfigMap", "apiVersion": "v1", "name": "c"}}},
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        (
            {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}}},
            404,
            'pods "none" not found',
        ),
        (
            {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}},
            400,
            'serviceaccount "till" to pod running with different serviceaccount name.',
        ),
        (
            {"spec": {"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s", "uid": "u"}}},
            409,
            "the UID in the bound object reference (u) does not match",
        ),
    ],
)
async def test_what_no_token_is_given_for(server, account, body, code, text) -> None:
    await server.ok("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "default"}})
    spec = {"containers": [{"name": "c", "image": "netplane/echo"}]}
    await server.ok("POST", PODS, {"metadata": {"name": "p"}, "spec": spec})
    await server.ok("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}})
    error = await server.refused("POST", f"{ACCOUNT}/token", body)
    assert error.code == code
    assert text in str(error)


async def test_an_account_that_is_not_there_gets_none(server) -> None:
    assert (await server.refused("POST", f"{ACCOUNT}/token", {})).code == 404


async def test_a_client_sends_the_token_that_its_file_holds_now(server, account, tmp_path) -> None:
    """As kubelet renews a pod's: another directory, and one link that leads there from then on."""
    link = tmp_path / "..data"
    (tmp_path / "token").symlink_to(link / "token")

    def renew(text: str) -> None:
        directory = Path(tempfile.mkdtemp(dir=tmp_path))
        (directory / "token").write_text(text)
        (directory / "next").symlink_to(directory)
        (directory / "next").rename(link)

    renew(await token_for(server))
    (tmp_path / "ca.crt").write_bytes(server.authority.certificate_pem)
    url = f"https://127.0.0.1:{server.port}"
    (tmp_path / "config").write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
        f"clusters: [{{name: k, cluster: {{server: '{url}', certificate-authority: ca.crt}}}}]\n"
        "users: [{name: u, user: {tokenFile: token}}]\n"
    )
    async with Client(Kubeconfig.load(tmp_path / "config")) as client:
        assert (await client.raw("POST", WHO, {}))["status"]["userInfo"]["username"] == NAME
        renew("no longer good")
        with pytest.raises(StatusError) as info:
            await client.raw("POST", WHO, {})
        assert info.value.code == 401
        renew(await token_for(server))
        assert (await client.raw("POST", WHO, {}))["status"]["userInfo"]["username"] == NAME
