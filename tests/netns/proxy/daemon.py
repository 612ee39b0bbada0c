"""The proxy as a process, and all that it needs: an API server, and a supervisor that keeps its descriptors."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from netplane.errors import PeerError
from netplane.linux.namespaces import entered_netns
from netplane.node.supervise.notify import Store, open_socket, receive
from proxy.userspace import observe
from tests import flows

API_PORT = 6480
LOAD = str(Path(__file__).with_name("load.py"))
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
        if "sendInitialEvents" in request.query:
            return web.json_response({"kind": "Status", "code": 422, "message": "unknown"}, status=422)
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
    """Starts the proxy in n1 and keeps its descriptors, as `netplane supervise` and systemd do.

    ``command``: what is started; the daemon by its own settings file where nothing is said.
    """

    def __init__(
        self,
        world: Any,
        root: Path,
        *,
        settings: str = "",
        descriptors: int | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self._world = world
        self._limit = f"ulimit -n {descriptors}; " if descriptors else ""
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
        self._command = command or (sys.executable, "-c", PROGRAM, str(etc / "proxy.yaml"))
        (etc / "proxy.yaml").write_text(f"root: {root}\nnodeName: n1\n{settings}\n")
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
        script = f'{moves}{self._limit}export LISTEN_PID=$$; exec "$0" "$@"'
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(self.root / "notify.sock"),
            "LISTEN_FDS": str(len(held)),
            "LISTEN_FDNAMES": ":".join(entry.name for entry in held),
        }
        command = ["nsenter", f"--net=/proc/self/fd/{netns}", "bash", "-c", script, *self._command]
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
            self.end(signal.SIGTERM)
        # Workers go on for a next proxy while they have connections, or where they do not know why theirs ended.
        while left := inhabitants(self._world.netns["n1"]):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._stopper.close()
        self._thread.join()
        self._stop.close()
        self._store.close()
        self._notify.close()


def inhabitants(netns: int) -> list[int]:
    """The proxy's own processes in a network namespace; those that have ended are in none."""
    found, inode = [], os.fstat(netns).st_ino
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                comm(int(process.name)).startswith("netplane-")
                and (process / "ns/net").stat().st_ino == inode
            ):
                found.append(int(process.name))
    return found


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def family(pid: int) -> list[int]:
    """Keepers before their workers."""
    return [one for child in children(pid) for one in (child, *family(child))]


def visit(world: Any, address: str = "10.96.0.10", port: int = 80) -> str:
    with world.connect("client", address, port) as sock:
        return first_word(sock)


def first_word(sock: socket.socket) -> str:
    with sock.makefile("rb") as stream:
        return stream.readline().decode().split()[0]


def named(supervisor: Supervisor, name: str) -> list[int]:
    """Children of the proxy of this kind: keepers, or the zygote."""
    assert supervisor.process is not None
    return [pid for pid in children(supervisor.process.pid) if comm(pid) == f"netplane-{name}"]


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def workers(supervisor: Supervisor) -> list[int]:
    return [worker for keeper in named(supervisor, "keeper") for worker in children(keeper)]


@contextmanager
def load(world: Any, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    netns = world.netns[name]
    command = ["nsenter", f"--net=/proc/self/fd/{netns}", sys.executable, LOAD, *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, pass_fds=[netns], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "running\n"
            yield process
        finally:
            process.kill()


def ended(client: subprocess.Popen[str], seconds: float = 60) -> dict[str, Any]:
    said, _ = client.communicate(timeout=seconds)
    return dict(json.loads(said))
