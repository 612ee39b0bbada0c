"""An API to test against: the fake, or the real server over HTTPS with a client certificate."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import web

from controlplane.api.app import build
from controlplane.api.http import Doors
from controlplane.api.kinds.allocation import ServiceAllocator
from controlplane.api.kinds.registry import KINDS
from controlplane.api.listening import tls_context
from controlplane.api.writing.pod_admission import Patience
from controlplane.auth.pki import Authority, new_key
from controlplane.auth.tokens import Issuer
from controlplane.store.sqlite import SQLiteStore
from netplane.kube.client import Client
from netplane.kube.kubeconfig import Kubeconfig, render
from netplane.kube.resources import NAMESPACES
from tests.fakes_api import FakeApi

NAMESPACES_THERE = ("default", "kube-node-lease")


@pytest.fixture(params=["fake", "https"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    """Something with the client's verbs; a namespace ``default`` is there."""
    if request.param == "fake":
        fake = FakeApi()
        for name in NAMESPACES_THERE:
            await fake.create(NAMESPACES, {"metadata": {"name": name}})
        yield fake
        return
    async with served(tmp_path) as kubeconfig, Client(kubeconfig) as client:
        for name in NAMESPACES_THERE:
            await client.create(
                NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )
        yield client


@asynccontextmanager
async def served(root: Path) -> AsyncIterator[Kubeconfig]:
    """The real API server on a port of its own."""
    pki = root / "pki"
    authority = Authority.create(pki)
    authority.issue_server("kube-apiserver", ["127.0.0.1"]).write(pki / "api.crt", pki / "api.key")
    user = authority.issue_client("system:kube-controller-manager", ["system:masters"])
    tls = tls_context(str(pki / "api.crt"), str(pki / "api.key"), str(pki / "ca.crt"))
    store = await SQLiteStore.open(root / "state.db")
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    services = ServiceAllocator((ip_network("10.96.0.0/12"),), range(30000, 32768), frozenset())
    issuer = Issuer(new_key(), "https://kubernetes.default.svc.cluster.local")
    api = await build(
        store,
        KINDS.values(),
        allocate_service=services,
        issuer=issuer,
        address=address,
        patience=Patience(unreachable=1),
    )
    runner = web.AppRunner(
        api.application(Doors(None, None)), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
    )
    await runner.setup()
    await web.SockSite(runner, listener, ssl_context=tls).start()
    text = render(
        f"https://{address}", authority.certificate_pem, user.certificate_pem, user.key_pem, "controllers"
    )
    path = root / "kubeconfig"
    path.write_text(text)
    try:
        yield Kubeconfig.load(path)
    finally:
        api.fanout.end()
        await runner.cleanup()
        await store.close()
