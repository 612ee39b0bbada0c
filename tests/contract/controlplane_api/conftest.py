"""A real API server for each test: SQLite in a temporary directory, real certificates, an ephemeral port."""

import asyncio
import io
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

import aiohttp
import orjson
import pytest
from aiohttp import web

from controlplane.api.app import Api, build
from controlplane.api.http import Doors
from controlplane.api.kinds.allocation import ServiceAllocator
from controlplane.api.kinds.registry import KINDS
from controlplane.api.listening import listen, serving, tls_context
from controlplane.api.publish import Published, publish
from controlplane.api.requests.route import catalog
from controlplane.api.streams.agents import Agents
from controlplane.api.streams.proxy import AgentProxy
from controlplane.auth.files import write_cluster
from controlplane.auth.pki import Authority
from controlplane.auth.tokens import load_issuer
from controlplane.store.sqlite import SQLiteStore
from netplane.kube import errors

ADMIN = ("kubernetes-admin", "system:masters")


async def until(condition, seconds=10.0) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass
class Answer:
    """One HTTP answer, its body read as JSON where it is."""

    code: int
    headers: dict[str, str]
    body: object
    text: str = ""


@dataclass
class Server:
    """A running server and how to call it as somebody."""

    api: Api
    store: SQLiteStore
    authority: Authority
    directory: object
    port: int
    sessions: dict[tuple[str, ...], aiohttp.ClientSession] = field(default_factory=dict)

    def tls(self, *names: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.certificate_pem.decode())
        if names:
            pair = self.authority.issue_client(names[0], names[1:])
            stem = self.directory / names[0].replace(":", "-")
            pair.write(stem.with_suffix(".crt"), stem.with_suffix(".key"))
            context.load_cert_chain(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        return context

    def session(self, *names: str) -> aiohttp.ClientSession:
        """A session as the user ``names[0]`` in the groups after it; without names: nobody."""
        if names not in self.sessions:
            connector = aiohttp.TCPConnector(ssl=self.tls(*names), limit=0)
            self.sessions[names] = aiohttp.ClientSession(
                f"https://127.0.0.1:{self.port}", connector=connector
            )
        return self.sessions[names]

    async def call(self, method, path, body=None, *, who=ADMIN, kind="application/json", **query) -> Answer:
        data = body if isinstance(body, bytes) else orjson.dumps(body) if body is not None else None
        if data is not None and len(data) > 500_000:
            data = io.BytesIO(data)
        headers = {"Content-Type": kind} if data is not None else {}
        if accept := query.pop("accept", ""):
            headers["Accept"] = accept
        async with self.session(*who).request(
            method, path, data=data, headers=headers, params=query
        ) as response:
            text = await response.text()
            parsed = orjson.loads(text) if "json" in response.content_type and text else None
            return Answer(response.status, dict(response.headers), parsed, text)

    async def ok(self, method, path, body=None, **more):
        answer = await self.call(method, path, body, **more)
        assert answer.code < 300, answer.text
        return answer.body

    async def refused(self, method, path, body=None, **more):
        """The Status of a request that must fail; its code is the HTTP code."""
        answer = await self.call(method, path, body, **more)
        assert answer.code >= 400, answer.text
        assert answer.body["kind"] == "Status"
        assert answer.body["status"] == "Failure"
        assert answer.body["code"] == answer.code
        return errors.from_status(answer.code, answer.body)


@pytest.fixture(scope="session")
def etc(tmp_path_factory):
    """The certificates of a control plane, made once."""
    directory = tmp_path_factory.mktemp("etc")
    write_cluster(directory, server="https://127.0.0.1:6443", addresses=())
    return directory


@pytest.fixture
def node_ports() -> range:
    """The node ports of the cluster; a test with few of them says so itself."""
    return range(30000, 32768)


@pytest.fixture
async def server(tmp_path, etc, node_ports) -> AsyncIterator[Server]:
    store = await SQLiteStore.open(tmp_path / "state.db")
    allocator = ServiceAllocator(
        (IPv4Network("10.96.0.0/12"),), node_ports, reserved=frozenset({IPv4Address("10.96.0.1")})
    )
    issuer, address = load_issuer(etc / "pki", "cluster.local"), "192.0.2.10:6443"
    api = await build(store, KINDS.values(), allocate_service=allocator, issuer=issuer, address=address)
    published = Published(
        [IPv4Address("192.0.2.10")], 6443, [IPv4Address("10.96.0.1")], [IPv4Address("10.96.0.10")]
    )
    await publish(api.machinery, catalog(KINDS.values()), published)

    async def nothing(*_arguments):
        raise errors.internal("not in this test")

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    pki = etc / "pki"
    tls = tls_context(str(pki / "apiserver.crt"), str(pki / "apiserver.key"), str(pki / "ca.crt"))
    async with (
        Agents(pki, api.hub) as agents,
        serving(api.application(Doors(nothing, AgentProxy(agents).answer)), [listener], tls),
    ):
        running = Server(api, store, Authority.load(pki), tmp_path, port)
        yield running
        for session in running.sessions.values():
            await session.close()
        api.fanout.end()
    await store.close()


@asynccontextmanager
async def agent_at(server, tmp_path, answer) -> AsyncIterator[None]:
    """A node agent that answers every GET with ``answer``, the Node n1 that leads to it, and the pod x there."""
    listener = listen(IPv4Address("127.0.0.1"), 0)
    certificate, key, authority = (tmp_path / name for name in ("node.crt", "node.key", "ca.crt"))
    server.authority.issue_server("system:node:n1", ["127.0.0.1"]).write(certificate, key)
    authority.write_bytes(server.authority.certificate_pem)
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    await server.ok("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": listener.getsockname()[1]}},
    }
    merge = "application/merge-patch+json"
    await server.ok("PATCH", "/api/v1/nodes/n1/status", {"status": status}, kind=merge)
    containers = [{"name": name, "image": "netplane/echo"} for name in ("web", "broken")]
    pod = {"metadata": {"name": "x"}, "spec": {"nodeName": "n1", "containers": containers}}
    await server.ok("POST", "/api/v1/namespaces/default/pods", pod)
    async with serving(application, [listener], tls_context(str(certificate), str(key), str(authority))):
        yield
