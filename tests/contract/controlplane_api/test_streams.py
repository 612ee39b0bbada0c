"""exec, attach and port-forward through the API server: an agent of a few lines on one side, clients on the other."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from tests.contract.controlplane_api.conftest import agent_at

PODS = "/api/v1/namespaces/default/pods"
MERGE = "application/merge-patch+json"
V4, V5, SPDY = "v4.channel.k8s.io", "v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"
STDIO = {"stdout": "true"}


class Agent:
    """Repeats every message; "close" closes with a code of its own, "gone" cuts the connection."""

    def __init__(self):
        self.asked = []
        self.left = asyncio.Queue()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        subject = request.transport.get_extra_info("peercert")["subject"]
        names = [value for rdn in subject for key, value in rdn if key == "commonName"]
        self.asked.append((names[0], request.path, list(request.query.items())))
        if request.path.endswith("/broken"):
            return web.Response(status=400, text='container not found ("broken"): it does not run\n')
        ws = web.WebSocketResponse(protocols=(V5, SPDY), compress=False, max_msg_size=0)
        if not ws.can_prepare(request).ok:
            return web.Response(status=400, text="Upgrade request required: a WebSocket\n")
        await ws.prepare(request)
        try:
            async for message in ws:
                if message.data == b"close":
                    await ws.close(code=4001)
                elif message.data == b"gone":
                    request.transport.abort()
                elif message.type is WSMsgType.TEXT:
                    await ws.send_str(message.data)
                else:
                    await ws.send_bytes(message.data)
        finally:
            self.left.put_nowait(ws.close_code)
        return ws


@asynccontextmanager
async def agent_of(server, tmp_path):
    agent = Agent()
    async with agent_at(server, tmp_path, agent.answer):
        yield agent


def admin(server):
    return server.session("kubernetes-admin", "system:masters")


async def test_messages_pass_both_ways_as_they_are(server, tmp_path):
    async with agent_of(server, tmp_path) as agent, asyncio.timeout(20):
        query = [
            ("container", "web"),
            ("command", "sh"),
            ("command", "-c"),
            ("stdin", "True"),
            ("tty", "1"),
        ]
        async with admin(server).ws_connect(
            f"{PODS}/x/exec", params=[*query, ("odd", "1")], protocols=(V5, V4), max_msg_size=0
        ) as ws:
            assert ws.protocol == V5
            for message in (b"", b"\0abc", bytes(range(256)) * 4096, b"\xff\0"):
                await ws.send_bytes(message)
                assert await ws.receive_bytes() == message
            await ws.send_str("text")
            assert await ws.receive_str() == "text"
        assert await agent.left.get() == 1000
        ((who, path, passed),) = agent.asked
        assert (who, path) == ("kube-apiserver-kubelet-client", "/exec/default/x/web")
        assert passed == [("stdin", "true"), ("tty", "true"), ("command", "sh"), ("command", "-c")]


async def test_port_forward_goes_through_under_its_own_protocol(server, tmp_path):
    async with agent_of(server, tmp_path) as agent, asyncio.timeout(20):
        async with admin(server).ws_connect(f"{PODS}/x/portforward", protocols=(SPDY,)) as ws:
            assert ws.protocol == SPDY
            await ws.send_bytes(b"\x80\x03")
            assert await ws.receive_bytes() == b"\x80\x03"
        assert agent.asked[0][1] == "/portForward/default/x"


async def test_who_closes_is_heard_on_the_other_side(server, tmp_path):
    async with agent_of(server, tmp_path), asyncio.timeout(20):
        query = {"container": "web", **STDIO}
        async with admin(server).ws_connect(f"{PODS}/x/attach", params=query, protocols=(V5,)) as ws:
            await ws.send_bytes(b"close")
            assert (await ws.receive()).type is WSMsgType.CLOSE
            assert ws.close_code == 4001
        async with admin(server).ws_connect(f"{PODS}/x/attach", params=query, protocols=(V5,)) as ws:
            await ws.send_bytes(b"gone")
            assert (await ws.receive()).type is WSMsgType.CLOSE
            assert ws.close_code == 1001


async def test_a_client_that_is_cut_off_is_no_longer_served(server, tmp_path):
    async with (
        agent_of(server, tmp_path) as agent,
        asyncio.timeout(20),
        aiohttp.ClientSession(
            f"https://127.0.0.1:{server.port}",
            connector=aiohttp.TCPConnector(ssl=server.tls("kubernetes-admin", "system:masters")),
        ) as session,
    ):
        ws = await session.ws_connect(f"{PODS}/x/attach", params={"container": "web", **STDIO})
        await ws.send_bytes(b"hello")
        await ws.receive()
        ws._response.connection.transport.abort()
        assert await agent.left.get() in (None, 1001, 1006)  # told, or cut off itself


async def refused(server, path, **query):
    error = await server.refused("GET", path, **query)
    return error.code, error.reason, str(error)


async def test_what_cannot_be_is_a_status_with_words(server, tmp_path):
    async with agent_of(server, tmp_path):
        run = {"command": "ls", **STDIO}
        code, reason, text = await refused(server, f"{PODS}/x/exec", container="broken", **run)
        assert (code, reason) == (400, "BadRequest")
        assert 'container not found ("broken")' in text
        assert "choose one of: [web broken]" in (await refused(server, f"{PODS}/x/exec", **run))[2]
        assert (
            "container no is not valid" in (await refused(server, f"{PODS}/x/exec", container="no", **run))[2]
        )
        assert "specify command" in (await refused(server, f"{PODS}/x/exec", container="web", **STDIO))[2]
        text = (await refused(server, f"{PODS}/x/exec", container="web", command="ls"))[2]
        assert "at least 1 of stdin, stdout, stderr" in text
        text = (await refused(server, f"{PODS}/x/exec", container="web", **run))[2]
        assert "Upgrade request required" in text
        assert (await refused(server, f"{PODS}/none/attach", **STDIO))[:2] == (404, "NotFound")


async def test_the_same_words_after_a_failed_upgrade_and_for_the_old_one(server, tmp_path):
    """kubectl tries a WebSocket, then POSTs for SPDY and prints what that answers."""
    async with agent_of(server, tmp_path):
        query = {"container": "broken", "command": "ls", **STDIO}
        with pytest.raises(aiohttp.WSServerHandshakeError) as failure:
            await admin(server).ws_connect(f"{PODS}/x/exec", params=query, protocols=(V5,))
        assert failure.value.status == 400
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        for container, words in (("broken", "container not found"), ("web", "SPDY/3.1 is not served")):
            async with admin(server).post(
                f"{PODS}/x/exec", params=query | {"container": container}, headers=headers
            ) as answer:
                assert answer.status == 400
                assert words in (await answer.json())["message"]


@pytest.mark.parametrize("subresource", ["log", "exec", "attach", "portforward"])
async def test_only_who_may(server, tmp_path, subresource):
    async with agent_of(server, tmp_path) as agent:
        for who in (("system:node:n1", "system:nodes"), ("somebody", "people")):
            for method in ("GET", "POST") if subresource != "log" else ("GET",):
                answer = await server.call(method, f"{PODS}/x/{subresource}", who=who, command="ls", **STDIO)
                assert answer.code == 403, answer.text
        assert not agent.asked


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ({"tailLines": "-1"}, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ({"limitBytes": "0"}, "limitBytes: Invalid value: 0"),
        ({"sinceSeconds": "x"}, "sinceSeconds: Invalid value: x"),
        ({"sinceSeconds": "1", "sinceTime": "2026-01-01T00:00:00Z"}, "at most one of"),
    ],
)
async def test_log_options_are_checked(server, tmp_path, query, complaint):
    async with agent_of(server, tmp_path):
        assert complaint in (await refused(server, f"{PODS}/x/log", container="web", **query))[2]


async def test_an_agent_that_is_away_is_503(server, tmp_path):
    async with agent_of(server, tmp_path):
        pass
    code, _, text = await refused(server, f"{PODS}/x/attach", container="web", **STDIO)
    assert code == 503
    assert "cannot reach the agent of node n1" in text
