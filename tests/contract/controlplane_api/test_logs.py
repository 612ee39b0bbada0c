"""`kubectl logs`: passed on from a node agent that lets in the API server only."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tests.contract.controlplane_api.conftest import agent_at

PODS = "/api/v1/namespaces/default/pods"
MERGE = "application/merge-patch+json"


class Agent:
    """A node agent that remembers who asked for what, and writes lines when told to."""

    def __init__(self) -> None:
        self.asked = []
        self.lines = asyncio.Queue()

    async def answer(self, request):
        subject = request.transport.get_extra_info("peercert")["subject"]
        names = [value for rdn in subject for key, value in rdn if key == "commonName"]
        self.asked.append((names[0], request.path, dict(request.query)))
        if request.path.endswith("/broken"):
            return web.Response(status=400, text="container broken in pod x has not been started\n")
        response = web.StreamResponse()
        await response.prepare(request)
        while line := await self.lines.get():
            await response.write(line)
        return response


@asynccontextmanager
async def agent_of(server, tmp_path):
    agent = Agent()
    async with agent_at(server, tmp_path, agent.answer):
        yield agent


async def test_a_log_is_passed_on_as_it_comes(server, tmp_path) -> None:
    async with agent_of(server, tmp_path) as agent:
        session = server.session("kubernetes-admin", "system:masters")
        query = {"container": "web", "follow": "true", "tailLines": "5", "unknown": "x"}
        async with asyncio.timeout(10), session.get(f"{PODS}/x/log", params=query) as response:
            for line in (b"one\n", b"two\n"):
                agent.lines.put_nowait(line)
                assert await response.content.readline() == line
            agent.lines.put_nowait(None)
            assert await response.read() == b""
        assert response.status == 200
        passed = {"follow": "true", "tailLines": "5"}
        assert agent.asked == [("kube-apiserver-kubelet-client", "/containerLogs/default/x/web", passed)]


async def test_what_the_agent_refuses_is_a_status(server, tmp_path) -> None:
    async with agent_of(server, tmp_path):
        error = await server.refused("GET", f"{PODS}/x/log", container="broken")
        assert (error.code, error.reason) == (400, "BadRequest")
        assert "has not been started" in str(error)
        error = await server.refused("GET", f"{PODS}/x/log")
        assert "choose one of: [web broken]" in str(error)
        error = await server.refused("GET", f"{PODS}/x/log", container="nope")
        assert "container nope is not valid for pod x" in str(error)


@pytest.mark.parametrize("node", ["", "gone"])
async def test_a_log_that_cannot_be_reached_says_why(server, node) -> None:
    containers = [{"name": "web", "image": "netplane/echo"}]
    await server.ok(
        "POST", PODS, {"metadata": {"name": "x"}, "spec": {"nodeName": node, "containers": containers}}
    )
    error = await server.refused("GET", f"{PODS}/x/log")
    assert error.code == (503 if node else 400)
    assert ("agent of node gone: it has no InternalIP" if node else "does not have a host assigned") in str(
        error
    )


async def test_an_agent_that_is_away_is_503(server, tmp_path) -> None:
    async with agent_of(server, tmp_path):
        pass
    error = await server.refused("GET", f"{PODS}/x/log", container="web")
    assert error.code == 503
    assert "cannot reach the agent of node n1" in str(error)
