"""A cache stays true on servers of every age: ours, one of Kubernetes 1.19's manners, and a real one (1.20)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from netplane.kube.cache import Cache, Change
from netplane.kube.client import Client
from netplane.kube.following import follow
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.older import OLDER_ENDPOINTSLICES, slice_from_v1beta1
from netplane.kube.resources import ENDPOINTSLICES
from tests.contract.controlplane_api.conftest import ADMIN, Server
from tests.fakes_old_api import PATH, OldApi
from tests.real_kubernetes import SLICES, TOKEN, Kubernetes, missing

SECONDS = 10
MODERN = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


def item(name: str, *addresses: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


class Ours:
    """Our server, driven as the old one is."""

    def __init__(self, server: Server) -> None:
        self._server = server
        pair = server.authority.issue_client(*ADMIN[:1], ADMIN[1:])
        self.kubeconfig = Kubeconfig(
            server=f"https://127.0.0.1:{server.port}",
            ca=server.authority.certificate_pem,
            certificate=pair.certificate_pem,
            key=pair.key_pem,
        )

    async def put(self, obj: dict[str, Any]) -> None:
        await self._server.ok("POST", MODERN, obj)

    async def delete(self, name: str) -> None:
        await self._server.ok("DELETE", f"{MODERN}/{name}")

    async def forget(self) -> str:
        before = (await self._server.ok("GET", MODERN))["metadata"]["resourceVersion"]
        for name in ("x", "y"):
            await self.put(item(name))
            await self.delete(name)
        await self._server.store.compact(self._server.store.revision)
        return str(before)


class Real:
    """A real Kubernetes API server of the old one's age."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes
        self.kubeconfig = Kubeconfig(server=kubernetes.server, ca=kubernetes.ca, token=TOKEN)

    async def put(self, obj: dict[str, Any]) -> None:
        await asyncio.to_thread(self._kubernetes.put, SLICES, obj)

    async def delete(self, name: str) -> None:
        await asyncio.to_thread(self._kubernetes.delete, SLICES, name)

    async def forget(self) -> str:
        before = self._kubernetes.revision()
        await self.put(item("x"))
        await self.delete("x")
        await asyncio.to_thread(self._kubernetes.wait_until_forgotten, before)
        return before


def free_ports() -> tuple[int, int, int]:
    """Three that nobody has now, and that nobody is given for a while."""
    with ExitStack() as held:
        socks = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        one, two, three = (sock.getsockname()[1] for sock in socks)
    return one, two, three


@contextmanager
def real(directory: Path) -> Iterator[Real]:
    netns = os.open("/proc/self/ns/net", os.O_RDONLY)  # it listens on 127.0.0.1
    kubernetes = Kubernetes(directory, netns, ports=free_ports())
    try:
        kubernetes.start()
        yield Real(kubernetes)
    finally:
        kubernetes.close()
        os.close(netns)


REAL = pytest.param("real", marks=[pytest.mark.long, pytest.mark.skipif(bool(missing()), reason=missing())])


@pytest.fixture(params=["ours", "old, 410 as an event", "old, 410 as an answer", REAL])
async def api(request, server, tmp_path) -> AsyncIterator[Any]:
    if request.param == "ours":
        yield Ours(server)
        return
    if request.param == "real":
        with real(tmp_path / "kubernetes") as found:
            yield found
        return
    old = OldApi(request.param.rpartition(" ")[2])
    async with old.serving():
        old.kubeconfig = Kubeconfig(server=f"http://127.0.0.1:{old.port}")  # type: ignore[attr-defined]
        yield old


@asynccontextmanager
async def followed(api: Any, cache: Cache, *, streaming: bool) -> AsyncIterator[asyncio.Queue[Change]]:
    seen: asyncio.Queue[Change] = asyncio.Queue()
    async with Client(api.kubeconfig) as client, asyncio.TaskGroup() as group, asyncio.timeout(SECONDS):
        told = follow(
            client,
            cache,
            label_selector="kubernetes.io/service-name=web",  # our server has a slice of its own as well
            on_change=seen.put_nowait,
            older=OLDER_ENDPOINTSLICES,
            streaming=streaming,
        )
        task = group.create_task(told)
        yield seen
        task.cancel()


@pytest.mark.parametrize("streaming", [True, False])
async def test_what_is_there_and_what_happens_then(api, streaming: bool) -> None:
    cache = Cache(ENDPOINTSLICES)
    await api.put(item("a", "10.0.0.1"))
    async with followed(api, cache, streaming=streaming) as seen:
        first = await seen.get()
        assert (first.kind, first.key.name) == ("ADDED", "a")
        await api.put(item("b", "10.0.0.2"))
        second = await seen.get()
        assert (second.kind, second.key.name) == ("ADDED", "b")
        assert second.object["endpoints"][0]["addresses"] == ["10.0.0.2"]
        await api.delete("a")
        assert (await seen.get()).kind == "DELETED"
        assert [key.name for key in cache.objects] == ["b"]


async def test_history_that_is_gone_is_listed_again(api) -> None:
    """As after an hour's silence: the cache knows an object that is no more, and a revision nobody remembers."""
    cache = Cache(ENDPOINTSLICES)
    stale = await api.forget()
    await api.put(item("a", "10.0.0.1"))
    cache.replace([{**item("gone"), "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}], stale)
    async with followed(api, cache, streaming=True) as seen:
        told = {(change.kind.value, change.key.name) for change in [await seen.get(), await seen.get()]}
        assert told == {("DELETED", "gone"), ("ADDED", "a")}


async def test_ours_is_asked_for_a_watch_that_begins_whole(server, monkeypatch) -> None:
    listed: list[Any] = []
    monkeypatch.setattr(Client, "list", lambda *arguments, **_: listed.append(arguments))
    ours = Ours(server)
    await ours.put(item("a", "10.0.0.1"))
    async with followed(ours, Cache(ENDPOINTSLICES), streaming=True) as seen:
        assert (await seen.get()).key.name == "a"
    assert listed == []


async def test_an_old_server_is_asked_in_its_own_words() -> None:
    old = OldApi()
    async with old.serving():
        old.kubeconfig = Kubeconfig(server=f"http://127.0.0.1:{old.port}")  # type: ignore[attr-defined]
        await old.put(item("a", "10.0.0.1"))
        async with followed(old, Cache(ENDPOINTSLICES), streaming=True) as seen:
            await seen.get()
            while len(old.asked) < 4:
                await asyncio.sleep(0.001)
    modern = PATH.replace("v1beta1", "v1")
    assert old.asked == [f"streaming {modern}", f"streaming {PATH}", f"list {PATH}", f"watch {PATH}"]


def test_a_slice_of_v1beta1_is_one_of_v1() -> None:
    old = item("a", "10.0.0.1", "10.0.0.2") | {"apiVersion": "discovery.k8s.io/v1beta1"}
    topology = {"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "east"}
    old["endpoints"][0]["topology"] = topology
    old["endpoints"][1] |= {"topology": topology, "nodeName": "n2", "conditions": {"ready": False}}
    new = slice_from_v1beta1(old)
    assert new["apiVersion"] == "discovery.k8s.io/v1"
    assert new["endpoints"] == [
        {"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "east"},
        {"addresses": ["10.0.0.2"], "nodeName": "n2", "zone": "east", "conditions": {"ready": False}},
    ]
    assert "topology" in old["endpoints"][0], "what came in is left alone"
