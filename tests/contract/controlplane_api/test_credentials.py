"""No credential, no answer but version and health; a credential opens its own doors and no others."""

import asyncio
import ssl

import aiohttp
import pytest

from controlplane.auth.pki import Authority

NODE = ("system:node:n1", "system:nodes")
PROXY = ("system:kube-proxy:n1", "system:node-proxier")
ADMIN = ("kubernetes-admin", "system:masters")
PODS = "/api/v1/namespaces/default/pods"

OPEN = ["/version", "/version/", "/healthz", "/readyz", "/livez"]
CLOSED = [
    ("GET", "/"),
    ("GET", "/api"),
    ("GET", "/apis"),
    ("GET", "/api/v1"),
    ("GET", "/api/v1/pods"),
    ("GET", "/api/v1/pods?watch=1"),
    ("GET", "/api/v1/namespaces/default/pods/x/log"),
    ("GET", "/openapi/v3"),
    ("GET", "/metrics"),
    ("GET", "/no/such/path"),
    ("GET", "/version/../api/v1/pods"),
    ("POST", "/version"),
    ("POST", PODS),
    ("PATCH", f"{PODS}/x"),
    ("DELETE", "/api/v1/nodes/n1"),
]


@pytest.mark.parametrize("path", OPEN)
async def test_version_and_health_are_open(server, path) -> None:
    assert (await server.call("GET", path, who=())).code == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_without_a_credential_everything_else_is_401(server, method, path) -> None:
    error = await server.refused(method, path, b"{}" if method in ("POST", "PATCH") else None, who=())
    assert (error.code, error.reason) == (401, "Unauthorized")


async def test_a_bearer_token_that_nobody_knows_is_no_credential(server) -> None:
    async with server.session().get("/api/v1/pods", headers={"Authorization": "Bearer guess"}) as response:
        assert response.status == 401


async def test_a_certificate_of_another_authority_is_refused_by_tls(server, tmp_path) -> None:
    stranger = Authority.create(tmp_path / "elsewhere")
    stranger.issue_client(*ADMIN[:1], ADMIN[1:]).write(tmp_path / "s.crt", tmp_path / "s.key")
    context = ssl.create_default_context(cadata=server.authority.certificate_pem.decode())
    context.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://127.0.0.1:{server.port}/version")


async def test_plain_http_gets_no_answer(server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200" not in await reader.read()
    writer.close()
    await writer.wait_closed()


ALLOWED = [
    (NODE, "GET", "/api/v1/nodes", 200),
    (NODE, "GET", "/api/v1/pods", 200),
    (PROXY, "GET", "/api/v1/services", 200),
    (PROXY, "GET", "/apis", 200),
    (ADMIN, "GET", "/metrics", 200),
]
REFUSED = [
    (PROXY, "DELETE", "/api/v1/nodes/n1"),
    (PROXY, "POST", PODS),
    (NODE, "DELETE", "/api/v1/namespaces/default"),
    (NODE, "PATCH", "/api/v1/nodes/n2"),
    (NODE, "GET", "/metrics"),
]


@pytest.mark.parametrize(("who", "method", "path", "code"), ALLOWED)
async def test_a_credential_opens_its_doors(server, who, method, path, code) -> None:
    assert (await server.call(method, path, who=who)).code == code


@pytest.mark.parametrize(("who", "method", "path"), REFUSED)
async def test_and_no_others(server, who, method, path) -> None:
    error = await server.refused(method, path, {} if method in ("POST", "PATCH") else None, who=who)
    assert (error.code, error.reason) == (403, "Forbidden")
    assert who[0] in str(error)


async def test_a_node_writes_its_own_pods_only(server) -> None:
    containers = [{"name": "c", "image": "netplane/echo"}]
    for name in ("n1", "n2"):
        draft = {"metadata": {"name": f"on-{name}"}, "spec": {"nodeName": name, "containers": containers}}
        await server.ok("POST", PODS, draft)
    body = {"status": {"phase": "Running"}}
    kind = "application/merge-patch+json"
    assert (await server.call("PATCH", f"{PODS}/on-n1/status", body, kind=kind, who=NODE)).code == 200
    error = await server.refused("PATCH", f"{PODS}/on-n2/status", body, kind=kind, who=NODE)
    assert error.code == 403
    assert (await server.refused("DELETE", f"{PODS}/on-n2", who=NODE)).code == 403


async def test_requests_are_counted(server) -> None:
    await server.ok("GET", "/api/v1/pods")
    text = (await server.call("GET", "/metrics")).text
    assert 'apiserver_request_total{code="200",group="",resource="pods",subresource="",verb="list"}' in text
    assert "netplane_store_revision" in text
