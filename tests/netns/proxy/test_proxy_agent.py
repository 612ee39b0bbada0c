"""The proxy as a process: it follows an API server, survives kill -9 and SIGTERM, and starts without the API."""

import asyncio
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from netplane.errors import PeerError
from netplane.linux.namespaces import entered_netns
from netplane.node.supervise.notify import Store, open_socket, receive
from proxy.userspace import observe
from tests import flows

pytestmark = pytest.mark.netns
API_PORT = 6480
NODE_OBJECT = {
    "metadata": {"name": "n1"},
    "spec": {"podCIDRs": [flows.POD_CIDRS["n1"]]},
    "status": {"addresses": [{"type": "InternalIP", "address": flows.NODES["n1"]}]},
}
PROGRAM = """
import sys
from pathlib import Path
from netplane import config, runner
from proxy.agent import Settings, serve
settings = config.load(Settings, Path(sys.argv[1]))
sys.exit(runner.run(lambda daemon: serve(settings, daemon), name="proxy"))
"""


def eventually(check: Callable[[], Any], seconds: float = 10) -> Any:
    """Poll a condition; its last value, or error, is the failure's message."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if value := check():
                return value
        except (OSError, AssertionError, KeyError, PeerError, subprocess.CalledProcessError):
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, value
        time.sleep(0.01)


class Api:
    """List and watch of three resources on the host outside, over plain HTTP."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._revision = 100
        self._objects: dict[str, dict[str, Any]] = {"services": {}, "endpointslices": {}, "nodes": {}}
        self._watchers: list[tuple[str, asyncio.Queue[Any]]] = []
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._ready.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(5)

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join()
            self._thread = None

    def put(self, plural: str, obj: dict[str, Any]) -> None:
        self._revision += 1
        name = obj["metadata"]["name"]
        new = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._revision)}}
        kind = "MODIFIED" if name in self._objects[plural] else "ADDED"
        self._objects[plural][name] = new
        self._tell(plural, {"type": kind, "object": new})

    def delete(self, plural: str, name: str) -> None:
        self._revision += 1
        self._tell(plural, {"type": "DELETED", "object": self._objects[plural].pop(name)})

    def _tell(self, plural: str, event: dict[str, Any]) -> None:
        if self._thread is not None:
            for watched, queue in list(self._watchers):
                if watched == plural:
                    self._loop.call_soon_threadsafe(queue.put_nowait, event)

    def _run(self) -> None:
        with entered_netns(self._world.netns["outside"]), asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._done = asyncio.Event()
        app = web.Application()
        for path in ("/api/v1/services", "/api/v1/nodes", "/apis/discovery.k8s.io/v1/endpointslices"):
            app.router.add_get(path, self._answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, flows.OUTSIDE_ADDRESS, API_PORT, reuse_address=True).start()
        self._ready.set()
        await self._done.wait()
        for _, queue in self._watchers:
            queue.put_nowait(None)
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        plural = request.path.rpartition("/")[2]
        if "watch" not in request.query:
            items = list(self._objects[plural].values())
            return web.json_response({"metadata": {"resourceVersion": str(self._revision)}, "items": items})
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._watchers.append((plural, queue))
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self._watchers.remove((plural, queue))
        return response


class Supervisor:
    """Starts the proxy in n1 and keeps its descriptors, as `netplane supervise` and systemd do."""

    def __init__(self, world: Any, root: Path) -> None:
        self._world = world
        self.root = root
        self.log = root / "proxy.log"
        self._notify = open_socket(root / "notify.sock")
        self._store = Store()
        self._lock = threading.Lock()
        self._stop, self._stopper = socket.socketpair()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self.process: subprocess.Popen[bytes] | None = None
        etc = root / "etc/netplane"
        etc.mkdir(parents=True)
        (etc / "proxy.yaml").write_text(f"root: {root}\nnodeName: n1\n")
        server = f"http://{flows.OUTSIDE_ADDRESS}:{API_PORT}"
        (etc / "proxy.kubeconfig").write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: k, cluster: {{server: '{server}'}}}}]\n"
            "users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
        )

    def start(self) -> None:
        with self._lock:
            held = self._store.held()
        assert len(held) <= 7, "one move a descriptor, from numbers above these"
        moves = "".join(f"exec {3 + i}<&{entry.fd}; " for i, entry in enumerate(held))
        netns = self._world.netns["n1"]
        config = self.root / "etc/netplane/proxy.yaml"
        script = f'{moves}export LISTEN_PID=$$; exec "$0" -c "$1" {config}'
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(self.root / "notify.sock"),
            "LISTEN_FDS": str(len(held)),
            "LISTEN_FDNAMES": ":".join(entry.name for entry in held),
        }
        command = ["nsenter", f"--net=/proc/self/fd/{netns}", "bash", "-c", script, sys.executable, PROGRAM]
        descriptors = [netns, *(entry.fd for entry in held)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, pass_fds=descriptors, stderr=log)

    def _listen(self) -> None:
        """Store and forget what the proxy asks for, until the socket is shut down."""
        while select.select([self._notify, self._stop], [], [])[0] == [self._notify]:
            message = receive(self._notify)
            if message is None:
                continue
            notice, descriptors = message
            with self._lock:
                if notice.store:
                    self._store.add(notice.name, descriptors)
                if notice.remove:
                    self._store.remove(notice.name)
            for descriptor in descriptors:
                os.close(descriptor)

    def kept(self) -> set[str]:
        with self._lock:
            return {entry.name for entry in self._store.held()}

    def end(self, number: int) -> float:
        """Send a signal and wait; how long it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(10)
        return time.monotonic() - began

    def ask(self, op: str) -> Any:
        return observe.ask(self.root / "run/netplane/proxy.sock", op)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        self._stopper.close()
        self._thread.join()
        self._stop.close()
        self._store.close()
        self._notify.close()


@pytest.fixture
def api(world) -> Iterator[Api]:
    made = Api(world)
    for service in flows.SERVICES[:3]:
        made.put("services", service)
    for item in flows.SLICES[:3]:
        made.put("endpointslices", item)
    made.put("nodes", NODE_OBJECT)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def supervisor(world, api, tmp_path, start) -> Iterator[Supervisor]:
    start()  # so that every trace in n1 is removed at the end
    made = Supervisor(world, tmp_path)
    made.start()
    yield made
    made.close()


def visit(world: Any, address: str = "10.96.0.10", port: int = 80) -> str:
    with world.connect("client", address, port) as sock:
        return first_word(sock)


def first_word(sock: socket.socket) -> str:
    with sock.makefile("rb") as stream:
        return stream.readline().decode().split()[0]


def page(world: Any, url: str) -> str:
    def fetch() -> str:
        return subprocess.run(["curl", "-s", url], check=True, capture_output=True, text=True).stdout

    return world.run("outside", fetch)


def test_follows_the_api_and_reports_it(world, api, supervisor) -> None:
    eventually(lambda: visit(world) in ("web1", "web2"))
    api.put("endpointslices", flows.endpoint_slice("web", "web2"))
    eventually(lambda: [visit(world) for _ in range(4)] == ["web2"] * 4)
    n1 = flows.NODES["n1"]
    metrics = page(world, f"http://{n1}:10249/metrics")
    sample = 'netplane_service_connections_total{namespace="default",port="80",protocol="TCP",service="web"}'
    assert float(metrics.partition(sample)[2].split()[0]) >= 5
    for name in (
        "kubeproxy_sync_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "netplane_proxy_event_to_listeners_seconds_sum",
        "netplane_service_bytes_total",
        "netplane_proxy_api_silent_seconds",
    ):
        assert name in metrics
    assert json.loads(page(world, f"http://{n1}:10256/healthz"))["nodeEligible"] is True
    assert set(json.loads(page(world, f"http://{n1}:10256/livez"))) == {"lastUpdated", "currentTime"}
    assert supervisor.ask("status")["mode"] == "userspace"
    api.delete("services", "web")
    with pytest.raises(ConnectionRefusedError):
        eventually(lambda: visit(world) == "never", seconds=1)


def test_change_to_listener_in_under_100_ms(world, api, supervisor) -> None:
    """API write → listener open, ten times; the median is what the issue bounds."""
    eventually(lambda: visit(world))
    took = []
    for number in range(10):
        address = f"10.96.7.{number + 1}"
        api.put("endpointslices", flows.endpoint_slice(f"new{number}", "web1"))
        began = time.monotonic()
        api.put("services", flows.service(f"new{number}", address))
        eventually(lambda address=address: visit(world, address) == "web1", seconds=5)
        took.append(time.monotonic() - began)
    assert sorted(took)[5] < 0.1, took


def test_kill_9_refuses_no_new_connection(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    eventually(lambda: len(supervisor.kept()) == 4)  # web and all, by ClusterIP and NodePort
    supervisor.end(signal.SIGKILL)
    waiting = world.connect("client", "10.96.0.10", 80)  # nobody accepts: the kernel's queue holds it
    supervisor.start()
    with waiting:
        assert first_word(waiting) in ("web1", "web2")
    api.put("endpointslices", flows.endpoint_slice("web"))
    with pytest.raises(ConnectionRefusedError):  # closed for good, though the supervisor kept a copy
        eventually(lambda: visit(world) == "never", seconds=2)


def test_sigterm_drains_and_keeps_listeners(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    with world.connect("client", "10.96.0.10", 80) as sock, sock.makefile("rb") as stream:
        stream.readline()
        thread = threading.Thread(target=supervisor.end, args=(signal.SIGTERM,))
        thread.start()
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert stream.read() == b"last words"
        thread.join()
    waiting = world.connect("client", "10.96.0.10", 80)
    supervisor.start()
    with waiting:
        assert first_word(waiting)


def test_forwards_while_the_api_is_away_also_after_a_restart(world, api, supervisor) -> None:
    eventually(lambda: visit(world))
    eventually(lambda: (supervisor.root / "var/lib/netplane/proxy-snapshot.json").exists())
    api.stop()
    assert visit(world)
    supervisor.end(signal.SIGKILL)
    supervisor.start()
    assert visit(world)
    status = eventually(lambda: supervisor.ask("status"))
    assert status["frontends"] == 6
    assert status["apiSilentSeconds"] is None
    api.put("endpointslices", flows.endpoint_slice("web", "web2"))
    api.start()
    eventually(lambda: [visit(world) for _ in range(4)] == ["web2"] * 4, seconds=15)


def test_names_what_it_cannot_serve(world, api, supervisor) -> None:
    """SCTP, and a NodePort that another process holds, are said by name; all else is served."""
    eventually(lambda: visit(world))
    with world.open("n1") as taken:
        taken.bind(("0.0.0.0", 30099))
        taken.listen()
        sctp = flows.service("sctp", "10.96.0.53", 53)
        sctp["spec"]["ports"][0]["protocol"] = "SCTP"
        api.put("services", sctp)
        api.put("endpointslices", flows.endpoint_slice("sctp", "web1", protocol="SCTP"))
        api.put("endpointslices", flows.endpoint_slice("taken", "web1"))
        api.put("services", flows.service("taken", "10.96.0.77", node_port=30099))
        eventually(lambda: visit(world, "10.96.0.77") == "web1")
        unserved = eventually(lambda: len(found := supervisor.ask("status")["unserved"]) == 2 and found)
        assert any("default/sctp:53 at 10.96.0.53:53/sctp: SCTP is not served" in text for text in unserved)
        assert any("port 30099 is taken by another process" in text for text in unserved)
    eventually(lambda: visit(world, flows.NODES["n1"], 30099) == "web1")  # and tries again
    assert "default/taken:80 at 0.0.0.0:30099/tcp: port 30099 is taken" in supervisor.log.read_text()


class Streams:
    """Echo streams through the Service that never pause: what comes back must be what was sent, in order."""

    def __init__(self, world: Any, count: int) -> None:
        self._socks = [world.connect("client", "10.96.0.10", 80) for _ in range(count)]
        for sock in self._socks:
            first_line(sock)
        self.failures: list[str] = []
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        """One exchange on each stream in turn; the slowest one bounds how long any flow stood still."""
        number = 0
        while not self._over.is_set():
            for sock in self._socks:
                number += 1
                sent = hashlib.sha256(str(number).encode()).digest() * 8
                began = time.monotonic()
                try:
                    sock.sendall(sent)
                    if read_exactly(sock, len(sent)) != sent:
                        self.failures.append("corrupt")
                except OSError as error:
                    self.failures.append(str(error))
                self.longest = max(self.longest, time.monotonic() - began)
                if self.failures:
                    return

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        for sock in self._socks:
            sock.close()


def first_line(sock: socket.socket) -> None:
    while sock.recv(1) != b"\n":
        pass


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := sock.recv(size - len(data))):
            raise OSError("ended")
        data += more
    return data


def test_restarts_cut_no_flow(world, api, supervisor) -> None:
    """SIGTERM and a new process, three times: every stream goes on, and no exchange waits for the restart."""
    eventually(lambda: visit(world))
    streams = Streams(world, 100)
    try:
        for _ in range(3):
            supervisor.end(signal.SIGTERM)
            supervisor.start()
            eventually(lambda: supervisor.ask("status")["flows"] == 100)
            assert visit(world) in ("web1", "web2")
    finally:
        streams.end()
    assert streams.failures == []
    assert streams.longest < 0.5, streams.longest
    eventually(lambda: supervisor.ask("status")["flows"] == 0)
    assert list((supervisor.root / "run/netplane").glob("proxy-flows-*")) == []


def test_flows_that_nobody_takes_end_after_a_while(world, api, supervisor) -> None:
    with (supervisor.root / "etc/netplane/proxy.yaml").open("a") as settings:
        settings.write("drainSeconds: 0.5\n")
    eventually(lambda: visit(world))
    supervisor.end(signal.SIGTERM)
    supervisor.start()
    with world.connect("client", "10.96.0.10", 80) as sock:
        first_line(sock)
        supervisor.end(signal.SIGTERM)
        sock.sendall(b"still here")
        assert read_exactly(sock, 10) == b"still here"
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_health_check_node_port(world, api, supervisor) -> None:
    """200 with a local endpoint, 503 without, gone with the Service; for whoever balances load outside."""
    made = flows.balanced("lb", "10.96.0.60", "198.51.100.9")
    made["spec"] |= {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    api.put("endpointslices", flows.endpoint_slice("lb", "web1", "web2", "remote"))
    api.put("services", made)
    url = f"http://{flows.NODES['n1']}:32000/healthz"
    assert eventually(lambda: json.loads(page(world, url))) == {
        "service": {"namespace": "default", "name": "lb"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    api.put("endpointslices", flows.endpoint_slice("lb", "remote"))
    eventually(lambda: json.loads(page(world, url))["localEndpoints"] == 0)
    assert world.run("outside", status_of, url) == "503"
    api.delete("services", "lb")
    eventually(lambda: world.run("outside", status_of, url) == "000")


def status_of(url: str) -> str:
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout
