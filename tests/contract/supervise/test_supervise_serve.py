"""The supervisor at work with real processes: start, crash, keep descriptors, stop."""

import asyncio
import os
import signal
import sys
import textwrap
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from netplane.config import Paths, parse
from netplane.errors import ConfigError, PeerError
from netplane.node.supervise import control, process
from netplane.node.supervise import serve as supervise
from netplane.runner import Daemon

KEEPER = """
import os, socket, signal, sys, time
from netplane.runner import Daemon, inherited
daemon = Daemon("keeper", inherited(os.environ), _notify=os.environ["NOTIFY_SOCKET"])
if "http" in daemon.listeners:
    (listener,) = daemon.listeners["http"]
    daemon.status("kept " + str(listener.getsockname()[1]))
else:
    listener = socket.create_server(("127.0.0.1", 0))
    daemon.store("http", listener.fileno())
    daemon.status("new " + str(listener.getsockname()[1]))
daemon.ready()
print("up", flush=True)
signal.pause()
"""
STUBBORN = """
import os, signal, socket
signal.signal(signal.SIGTERM, signal.SIG_IGN)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
signal.pause()
"""


def entry(name, code, **more):
    return {"name": name, "command": [sys.executable, "-c", textwrap.dedent(code)], **more}


@asynccontextmanager
async def supervised(root, *daemons, listeners=None):
    settings = parse(supervise.Settings, {"root": str(root), "daemons": list(daemons)}, "test")
    daemon = Daemon("supervise", listeners or {})
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(supervise.serve(settings, daemon))
        try:
            yield lambda request: asyncio.to_thread(control.ask, Paths(root).supervise_socket, request, 15.0)
        finally:
            daemon.stopping.set()
            await serving


async def answering(ask):
    """The first status, once the supervisor listens."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await ask({"op": "status"})
            except PeerError:
                await asyncio.sleep(0.01)


async def until(ask, name, true):
    async with asyncio.timeout(15):
        while True:
            try:
                (found,) = [d for d in (await ask({"op": "status"}))["daemons"] if d["name"] == name]
            except PeerError:
                found = None
            if found and true(found):
                return found
            await asyncio.sleep(0.01)


def ready(found):
    return found["state"] == "running"


@pytest.fixture
def root(tmp_path):
    return tmp_path


async def test_a_killed_daemon_gets_its_sockets_back(root):
    async with supervised(root, entry("keeper", KEEPER)) as ask:
        first = await until(ask, "keeper", ready)
        port = first["status"].removeprefix("new ")
        await ask({"op": "kill", "daemon": "keeper"})
        second = await until(ask, "keeper", lambda d: ready(d) and d["pid"] != first["pid"])
        assert second["status"] == f"kept {port}"
        assert second["restarts"] == 1
        assert second["descriptors"] == 1
        assert second["lastExit"] == -signal.SIGKILL
    assert (root / "var/log/netplane/keeper.log").read_text() == "up\nup\n"
    with pytest.raises(ProcessLookupError):
        os.kill(second["pid"], 0)


async def test_stop_and_start_by_request(root):
    async with supervised(root, entry("keeper", KEEPER)) as ask:
        first = await until(ask, "keeper", ready)
        await ask({"op": "stop", "daemon": "keeper"})
        stopped = await until(ask, "keeper", lambda d: d["state"] == "stopped")
        assert stopped["pid"] is None
        await ask({"op": "start", "daemon": "keeper"})
        again = await until(ask, "keeper", ready)
        assert again["pid"] != first["pid"]
        await ask({"op": "restart", "daemon": "keeper"})
        assert (await until(ask, "keeper", ready))["pid"] != again["pid"]


async def test_a_daemon_that_does_not_end_is_killed_after_its_deadline(root):
    async with supervised(root, entry("stubborn", STUBBORN, stopSeconds=0.2)) as ask:
        await until(ask, "stubborn", ready)
        await ask({"op": "stop", "daemon": "stubborn"})
        stopped = await until(ask, "stubborn", lambda d: d["state"] == "stopped")
        assert stopped["lastExit"] == -signal.SIGKILL


async def test_a_daemon_that_cannot_start_is_tried_again_ever_more_slowly(root):
    async with supervised(root, {"name": "gone", "command": ["/does/not/exist"]}) as ask:
        found = await until(ask, "gone", lambda d: d["restarts"] >= 3)
        assert found["lastExit"] == 127
        assert found["state"] in ("waiting", "starting")


async def test_a_refused_fork_is_not_the_supervisors_end(root, monkeypatch):
    spawn, refused = process.spawn, []

    def refuse_once(*arguments, **options):
        if not refused:
            refused.append(True)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return spawn(*arguments, **options)

    monkeypatch.setattr(process, "spawn", refuse_once)
    async with supervised(root, entry("keeper", KEEPER)) as ask:
        assert (await until(ask, "keeper", ready))["restarts"] == 1


def open_tcp_sockets():
    """The listeners that were sent to us are TCP sockets: the only ones of this process."""
    inodes = {line.split()[9] for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]}
    return {target for fd in Path("/proc/self/fd").iterdir() if (target := link(fd))[8:-1] in inodes}


def link(path):
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


async def test_what_cannot_be_kept_is_closed(root, monkeypatch):
    def fail(*_arguments):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("netplane.node.supervise.notify.Store.add", fail)
    async with supervised(root, entry("keeper", KEEPER)) as ask:
        first = await until(ask, "keeper", ready)
        await ask({"op": "kill", "daemon": "keeper"})
        second = await until(ask, "keeper", lambda d: ready(d) and d["pid"] != first["pid"])
        assert second["status"].startswith("new ")
        assert open_tcp_sockets() == set()


async def test_the_peer_behind_the_socket_is_the_supervisor(root):
    async with supervised(root) as ask:
        assert (await answering(ask))["pid"] == os.getpid()
        path = Paths(root).supervise_socket
        assert await asyncio.to_thread(control.peer_pid, path) == os.getpid()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes somebody else")
def test_who_may_not_ask_is_told_so_and_not_that_nobody_is_there(tmp_path):
    with control.listen(tmp_path / "s"):
        os.seteuid(65534)
        try:
            for ask in (control.peer_pid, lambda path: control.ask(path, {"op": "status"})):
                with pytest.raises(ConfigError, match=r"Permission denied\. Run it with sudo"):
                    ask(tmp_path / "s")
        finally:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("request_", "cause"),
    [
        ({"op": "dance", "daemon": "keeper"}, "no such operation"),
        ({"op": "stop", "daemon": "nobody"}, "supervised here are keeper"),
        ({"op": "kill", "daemon": "keeper", "signal": 4711}, "it is a number from 1 to"),
        ({"op": "kill", "daemon": "keeper", "signal": True}, "it is a number from 1 to"),
    ],
)
async def test_a_wrong_request_is_answered(root, request_, cause):
    async with supervised(root, entry("keeper", KEEPER)) as ask:
        await until(ask, "keeper", ready)
        with pytest.raises(PeerError, match=cause):
            await ask(request_)


async def test_two_supervisors_on_one_root_are_refused(root):
    async with supervised(root) as ask:
        await answering(ask)
        settings = supervise.Settings(root)
        with pytest.raises(ConfigError, match="another supervisor runs there"):
            await supervise.serve(settings, Daemon("second"))


async def test_a_root_too_long_for_sockets_is_named(tmp_path):
    settings = parse(supervise.Settings, {"root": str(tmp_path / ("x" * 110)), "daemons": []}, "test")
    with pytest.raises(ConfigError, match=r"is longer than the 107 bytes .* Choose a shorter --root"):
        await supervise.serve(settings, Daemon("supervise", {}))


async def test_a_listener_that_was_not_passed_is_named(root):
    settings = parse(
        supervise.Settings,
        {"root": str(root), "daemons": [{"name": "a", "command": ["x"], "listeners": ["api-loopback"]}]},
        "test",
    )
    with pytest.raises(ConfigError, match="'api-loopback' was not passed"):
        await supervise.serve(settings, Daemon("supervise"))


@pytest.mark.parametrize(
    ("daemons", "cause"),
    [
        ([{"name": "a", "command": []}], "its command is empty"),
        ([{"name": "a/b", "command": ["x"]}], "letters, digits"),
        ([{"name": "a", "command": ["x"]}, {"name": "a", "command": ["y"]}], "two named 'a'"),
        ([{"name": "a", "command": ["x"], "restart": "no"}], "restart"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, daemons, cause):
    with pytest.raises(ConfigError, match=cause):
        parse(supervise.Settings, {"root": str(tmp_path), "daemons": daemons}, "test")
