"""The daemon on a namespace's own lo: asked by real resolvers, fed by an API that comes and goes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.resolver
import pytest
from aiohttp import web
from dns.rcode import Rcode

from netplane.dns import sockets
from netplane.linux.namespaces import entered_netns, new_netns, socket_in
from netplane.linux.rtnl import rtnl

pytestmark = pytest.mark.netns
DNS = "10.96.0.10"
API_PORT = 6400
NAME = "hello.default.svc.cluster.local"
RUN = """
import sys
from pathlib import Path
from netplane.dns.server import Settings, serve
from netplane.runner import run
from netplane.config import load
settings = load(Settings, None, root=sys.argv[1])
sys.exit(run(lambda daemon: serve(settings, daemon), name="dns"))
"""
KUBECONFIG = f"""
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{API_PORT}"}}}}]
users: [{{name: u, user: {{}}}}]
"""


def service(address: str, version: str) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": "hello", "resourceVersion": version},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"name": "http", "port": 80}]},
    }


def many_endpoints(count: int) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "big"}
    return {
        "metadata": {"namespace": "default", "name": "big-1", "labels": labels, "resourceVersion": "1"},
        "endpoints": [{"addresses": [f"10.244.{i // 250}.{i % 250}"]} for i in range(count)],
    }


class Api:
    """Lists and watches of two kinds, over plain HTTP, in a thread with its own event loop."""

    def __init__(self, netns: int) -> None:
        self._netns = netns
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner: web.AppRunner | None = None
        self._ending = asyncio.Event()
        self._starts = 8
        self.services: list[dict[str, Any]] = [service("10.96.0.20", "5")]

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)

    def close(self) -> None:
        try:
            self.stop()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _start(self) -> None:
        self._ending.clear()
        self._starts += 1
        app = web.Application()
        app.router.add_get("/api/v1/services", self._list_services)
        app.router.add_get("/apis/discovery.k8s.io/v1/endpointslices", self._list_slices)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        sock = socket_in(self._netns, socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", API_PORT))
        await web.SockSite(self._runner, sock).start()

    async def _stop(self) -> None:
        self._ending.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _list_services(self, request: web.Request) -> web.StreamResponse:
        headless = {
            "metadata": {"namespace": "default", "name": "big", "resourceVersion": "1"},
            "spec": {"clusterIP": "None", "clusterIPs": ["None"]},
        }
        return await self._answer(request, [*self.services, headless])

    async def _list_slices(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, [many_endpoints(100)])

    async def _answer(self, request: web.Request, items: list[dict[str, Any]]) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": str(self._starts)}, "items": items})
        if request.query["resourceVersion"] != str(self._starts):  # its history begins anew at each start
            return web.json_response({"code": 410, "reason": "Expired", "message": "too old"}, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        await self._ending.wait()
        return response


@contextmanager
def dns_daemon(netns: int, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    (root / "etc/netplane").mkdir(parents=True, exist_ok=True)
    (root / "etc/netplane/dns.kubeconfig").write_text(KUBECONFIG)
    with entered_netns(netns):
        process = subprocess.Popen([sys.executable, "-c", RUN, str(root)], stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def netns() -> Iterator[int]:
    descriptor = new_netns()
    with rtnl(descriptor) as ipr:
        ipr.link("set", index=1, state="up")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def api(netns: int) -> Iterator[Api]:
    served = Api(netns)
    yield served
    served.close()


def ask(netns: int, name: str, kind: str = "A", *, timeout: float = 2) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    with entered_netns(netns):
        return dns.query.udp(query, DNS, timeout=timeout)


def until(netns: int, name: str, expected: Rcode | str) -> None:
    """Ask until the answer is this code or this address; the daemon's start and the API's news take time."""
    deadline = time.monotonic() + 20
    found: object = None
    while time.monotonic() < deadline:
        try:
            response = ask(netns, name, timeout=0.2)  # it does not hear that nobody listens yet
            found = response.answer[0][0].to_text() if response.answer else response.rcode()
        except (dns.exception.Timeout, OSError) as error:
            found = error
        if found == expected:
            return
        time.sleep(0.02)
    raise AssertionError(f"{name}: {found!r}, not {expected!r}")


def test_answers_follow_the_api_and_outlive_it(netns: int, api: Api, tmp_path: Path) -> None:
    with dns_daemon(netns, tmp_path) as process:
        until(netns, NAME, Rcode.SERVFAIL)  # never listed: nothing is denied, nothing invented
        until(netns, "example.com", Rcode.REFUSED)
        api.start()
        until(netns, NAME, "10.96.0.20")
        assert ask(netns, "missing.default.svc.cluster.local").rcode() == Rcode.NXDOMAIN
        api.stop()
        assert ask(netns, NAME).answer[0][0].to_text() == "10.96.0.20"
        api.services = [service("10.96.0.77", "6")]
        api.start()
        until(netns, NAME, "10.96.0.77")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_sockets_are_on_exactly_the_dns_address(netns: int, api: Api, tmp_path: Path) -> None:
    api.start()
    with dns_daemon(netns, tmp_path):
        until(netns, NAME, "10.96.0.20")
        with entered_netns(netns), pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", 53), 2)
        assert dns_routes(netns) == [None]
    # A second process finds the route in place; and again it answers.
    with dns_daemon(netns, tmp_path):
        until(netns, NAME, "10.96.0.20")


def add_underlay(netns: int) -> None:
    with rtnl(netns) as ipr:
        ipr.link("add", ifname="under0", kind="veth", peer={"ifname": "under1"})
        (index,) = ipr.link_lookup(ifname="under0")
        ipr.link("set", index=index, state="up")
        ipr.addr("add", index=index, address="192.168.77.11", prefixlen=24)


def dns_routes(netns: int) -> list[str | None]:
    """The preferred source of each of our routes to the DNS address."""
    with rtnl(netns) as ipr:
        routes = [r for r in ipr.get_routes(family=socket.AF_INET, table=255) if r["proto"] == 99]
        return [r.get_attr("RTA_PREFSRC") for r in routes if r.get_attr("RTA_DST") == DNS]


def test_the_nodes_own_queries_come_from_the_nodes_address(netns: int) -> None:
    add_underlay(netns)
    with entered_netns(netns):
        assert sockets.node_addresses("https://127.0.0.1:6443") == ()
        assert sockets.node_addresses("https://203.0.113.1:6443") == ()  # no route: none
        sources = sockets.node_addresses("https://192.168.77.10:6443")
        for _ in range(2):
            sockets.own([ip_address(DNS)], sources)
        assert dns_routes(netns) == ["192.168.77.11"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((DNS, 53))
            assert sock.getsockname()[0] == "192.168.77.11"
        sockets.disown([ip_address(DNS)])
    assert dns_routes(netns) == []


def test_a_large_answer_comes_by_tcp(netns: int, api: Api, tmp_path: Path) -> None:
    api.start()
    with dns_daemon(netns, tmp_path):
        until(netns, NAME, "10.96.0.20")
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = [DNS]
        with entered_netns(netns):
            found = resolver.resolve("big.default.svc.cluster.local", "A")
        assert len(found) == 100


def test_a_flood_of_rubbish_does_not_stop_it(netns: int, api: Api, tmp_path: Path) -> None:
    api.start()
    with dns_daemon(netns, tmp_path) as process:
        until(netns, NAME, "10.96.0.20")
        with socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for size in range(1, 200):
                sock.sendto(os.urandom(size), (DNS, 53))
        with socket_in(netns, socket.AF_INET) as stream:
            stream.connect((DNS, 53))
            stream.sendall(b"\xff\xffrubbish")
        until(netns, NAME, "10.96.0.20")
        assert process.poll() is None


def test_the_hosts_resolver_finds_services_by_their_short_names(netns: int, api: Api, tmp_path: Path) -> None:
    add_underlay(netns)  # glibc asks for addresses of a family only where the host has one
    api.start()
    resolv = tmp_path / "resolv.conf"
    search = "default.svc.cluster.local svc.cluster.local cluster.local"
    resolv.write_text(f"nameserver {DNS}\nsearch {search}\noptions ndots:5 timeout:1\n")
    script = f'mount --bind "{resolv}" /etc/resolv.conf && exec "$@"'

    def getent(*arguments: str) -> str:
        command = ["unshare", "--mount", "sh", "-c", script, "sh", "getent", *arguments]
        with entered_netns(netns):
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout

    with dns_daemon(netns, tmp_path):
        until(netns, NAME, "10.96.0.20")
        for name in ("hello", "hello.default", "hello.default.svc", NAME):
            assert getent("ahostsv4", name).split()[:1] == ["10.96.0.20"], name
        assert getent("ahosts", "missing") == ""
        assert NAME in getent("hosts", "10.96.0.20")
