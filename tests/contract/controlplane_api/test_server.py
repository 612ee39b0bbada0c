"""The control plane's daemon: it starts whole or says in one line why not, and stops without leaving anything."""

import asyncio
import logging
import socket
import ssl
from datetime import UTC, datetime
from ipaddress import IPv4Address

import aiohttp
import pytest

from controlplane import server as module
from controlplane.api.listening import listen
from controlplane.auth.files import write_cluster
from controlplane.auth.join import Tokens
from controlplane.auth.pki import new_key, signing_request
from controlplane.server import Settings, serve
from netplane.config import Paths, load
from netplane.errors import ConfigError, KernelError
from netplane.kube.client import Client
from netplane.kube.errors import StatusError
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.resources import DEPLOYMENTS, NAMESPACES, PODS
from netplane.runner import Daemon
from tests.contract.controlplane_api.conftest import until

HERE = IPv4Address("127.0.0.1")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class Told(Daemon):
    """A daemon whose supervisor is a list."""

    def __init__(self) -> None:
        super().__init__("controlplane")
        self.said = []

    def ready(self, status="") -> None:
        self.said.append(status)


class Running:
    """A daemon in a task of its own."""

    def __init__(self, root, port=None) -> None:
        self.port = port or free_port()
        self.paths = Paths(root)
        self.settings = load(
            Settings, None, root=root, addresses=["192.0.2.10"], listen=["127.0.0.1"], port=self.port
        )
        self.daemon = Told()
        self.said = self.daemon.said
        self.url = f"https://127.0.0.1:{self.port}"
        self.authority = write_cluster(self.paths.etc, server=self.url, addresses=())

    async def __aenter__(self):
        self.group = await asyncio.TaskGroup().__aenter__()
        self.task = self.group.create_task(serve(self.settings, self.daemon))
        await until(lambda: self.said or self.task.done())
        return self

    async def __aexit__(self, *exc) -> None:
        self.daemon.stopping.set()
        async with asyncio.timeout(10):
            await self.group.__aexit__(None, None, None)

    def client(self) -> Client:
        return Client(Kubeconfig.load(self.paths.kubeconfig("admin")))


async def test_a_cluster_starts_controls_stops_and_remembers(tmp_path) -> None:
    labels = {"app": "web"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "netplane/echo"}]},
    }
    deployment = {
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }
    running = Running(tmp_path)
    async with running, running.client() as client:
        assert running.said == [f"serving on 192.0.2.10:{running.port}"]
        await client.create(DEPLOYMENTS, deployment, "default")
        watch, seen = client.watch(PODS, resource_version="0"), set()
        async with asyncio.timeout(10):
            while len(seen) < 2:
                seen.add((await anext(watch))["object"]["metadata"]["name"])
    async with Running(tmp_path, running.port), running.client() as client:
        pods = (await client.list(PODS, "default")).items
        assert len(pods) == 2


async def test_a_watch_goes_on_over_a_restart_without_a_new_list(tmp_path) -> None:
    running = Running(tmp_path)
    async with running, running.client() as client:
        version = (await client.list(NAMESPACES)).resource_version
        await client.create(NAMESPACES, {"metadata": {"name": "before"}})
    async with Running(tmp_path, running.port), running.client() as client:
        events = client.watch(NAMESPACES, resource_version=version)
        async with asyncio.timeout(10):
            first = await anext(events)
            await client.create(NAMESPACES, {"metadata": {"name": "after"}})
            second = await anext(events)
    names = [(event["type"], event["object"]["metadata"]["name"]) for event in (first, second)]
    assert names == [("ADDED", "before"), ("ADDED", "after")]


async def test_it_stops_at_once_though_clients_watch(tmp_path) -> None:
    running = Running(tmp_path)
    async with running, running.client() as client:
        events = client.watch(NAMESPACES, resource_version="0")
        assert (await anext(events))["type"] == "ADDED"
        began = asyncio.get_running_loop().time()
        running.daemon.stopping.set()
        async with asyncio.timeout(5):
            async for _ in events:
                pass
        await asyncio.wait([running.task])
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_a_socket_that_was_passed_down_is_answered_too(tmp_path) -> None:
    passed = listen(HERE, 0)
    port = passed.getsockname()[1]
    running = Running(tmp_path)
    running.daemon.listeners["api-loopback"] = [passed]
    async with running:
        context = ssl.create_default_context(cadata=running.authority.certificate_pem.decode())
        connector = aiohttp.TCPConnector(ssl=context)
        url = f"https://127.0.0.1:{port}/version"
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
            assert response.status == 200


async def test_a_new_certificate_is_taken_without_a_restart(tmp_path) -> None:
    running = Running(tmp_path)
    async with running:
        pki = running.paths.pki
        running.authority.issue_server("renewed", ["127.0.0.1"]).write(
            pki / "apiserver.crt", pki / "apiserver.key"
        )
        running.daemon.reload.set()
        await until(lambda: not running.daemon.reload.is_set())
        context = ssl.create_default_context(cadata=running.authority.certificate_pem.decode())
        _, writer = await asyncio.open_connection("127.0.0.1", running.port, ssl=context)
        subject = dict(pair[0] for pair in writer.get_extra_info("peercert")["subject"])
        writer.close()
        await writer.wait_closed()
        assert subject["commonName"] == "renewed"


async def test_a_token_joins_one_machine_and_a_wrong_one_none(tmp_path) -> None:
    running = Running(tmp_path)
    token = Tokens(running.paths.etc / "join-tokens.json").create(datetime.now(UTC))
    csrs = {key: signing_request(new_key(), key).decode() for key in ("node", "serving", "proxy", "dns")}
    body = {"token": token, "nodeName": "n1", "addresses": ["192.0.2.11"], "csrs": csrs}
    nobody = Kubeconfig(server=running.url, ca=running.authority.certificate_pem)
    async with running, Client(nobody) as client:
        answer = await client.raw("POST", "/netplane/v1/join", body)
        assert set(answer["certificates"]) == {"node", "serving", "proxy", "dns"}
        assert answer["cluster"]["servers"] == [f"https://192.0.2.10:{running.port}"]
        with pytest.raises(StatusError) as raised:
            await client.raw("POST", "/netplane/v1/join", {**body, "token": "aaaaaa.bbbbbbbbbbbbbbbb"})
        assert raised.value.code == 401


async def refusal(root, **changes) -> str:
    """The one line with which the daemon does not start."""
    running = Running(root)
    settings = load(Settings, None, **{**settings_of(running.settings), **changes})
    with pytest.raises((ConfigError, KernelError)) as raised:
        await serve(settings, running.daemon)
    assert not running.said
    assert "\n" not in str(raised.value)
    return str(raised.value)


def settings_of(settings):
    return {
        "root": settings.root,
        "addresses": settings.addresses,
        "listen": settings.listen,
        "port": settings.port,
    }


async def test_without_addresses_nobody_would_find_it(tmp_path) -> None:
    assert "addresses is empty" in await refusal(tmp_path, addresses=[])


async def test_a_port_in_use_is_named(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in await refusal(
            tmp_path, port=port
        )


async def test_an_address_of_another_machine_is_named(tmp_path) -> None:
    assert "cannot listen on 192.0.2.99" in await refusal(tmp_path, listen=["192.0.2.99"])


async def test_a_missing_certificate_is_named(tmp_path) -> None:
    root = tmp_path / "empty"
    running = Running(root)
    (running.paths.pki / "apiserver.crt").unlink()
    with pytest.raises(ConfigError, match=r"apiserver\.crt.*No such file"):
        await serve(running.settings, running.daemon)


async def test_a_state_directory_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "var").write_text("a file where a directory belongs")
    assert "cannot make" in await refusal(tmp_path)


async def test_a_damaged_store_is_named(tmp_path) -> None:
    state = Paths(tmp_path).state
    state.mkdir(parents=True)
    (state / "state.db").write_bytes(b"rubbish" * 1000)
    assert "it is not a database" in await refusal(tmp_path)


async def test_an_unknown_setting_is_named(tmp_path) -> None:
    file = tmp_path / "controlplane.yaml"
    file.write_text("addresses: [192.0.2.10]\nprot: 6443\n")
    with pytest.raises(ConfigError, match="prot"):
        load(Settings, file)


async def test_a_controller_that_fails_is_started_again_and_the_api_goes_on(
    tmp_path, monkeypatch, caplog
) -> None:
    starts = []

    async def failing(*_arguments) -> None:
        starts.append(1)
        raise RuntimeError("a bug in a controller")

    monkeypatch.setattr(module.controllers, "run", failing)
    running = Running(tmp_path)
    with caplog.at_level(logging.ERROR):
        async with running, running.client() as client:
            await until(lambda: len(starts) >= 2)
            assert (await client.list(NAMESPACES)).items
    assert "the controllers failed" in caplog.text
