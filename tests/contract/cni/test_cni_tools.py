"""`netplane cni status|leases|gc` and the daemon's own manners: inherited sockets, stopping, bad clients."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import ANY

import pytest

from cni import client
from cni.lease import describe
from netplane.errors import PeerError
from tests.netns.cni_node import CniNode, cni_node, pods, until

pytestmark = pytest.mark.netns


@pytest.fixture
def node(tmp_path):
    with cni_node(tmp_path) as made:
        yield made


def test_status_and_leases_look_also_when_the_daemon_is_down(node: CniNode):
    with pods(1) as (pod,):
        assert node.call("ADD", "pod-1", pod).code == 0
        assert client.status(node.root) == client.Status(True, "", {"live": 1})
        node.stop()
        down = client.status(node.root)
        assert (down.running, down.attachments) == (False, {"live": 1})
        assert "cni.sock" in down.reason
        (lease,) = node.leases()
        listed = describe(lease)
        assert (listed["containerID"], listed["addresses"]) == ("pod-1", ["10.244.1.2"])


def test_gc_mends_beside_a_running_daemon(node: CniNode):
    nothing: dict[str, list[str]] = {}
    for what in ("promised", "freed", "removed_links", "restored", "failed"):
        nothing[what] = []
    assert client.gc(node.root) == nothing
    with pods(1) as (stays,):
        with pods(1) as (goes,):
            assert node.call("ADD", "goes", goes).code == 0
            assert node.call("ADD", "stays", stays).code == 0
        until(lambda: len(node.links()) == 1, "the kernel to take the link with the namespace")
        node.command("ip", "route", "flush", "proto", "97")
        done = client.gc(node.root)
        assert done["freed"] == ["netplane/goes/eth0"]
        assert done["restored"] == ["netplane/stays/eth0"]
        assert "10.244.1.3" in node.command("ip", "route", "show", "proto", "97")
        assert [lease.attachment.container_id for lease in node.leases()] == ["stays"]


def netplane(node: CniNode, *words: str) -> tuple[int, str]:
    """The command as an operator runs it on this node: (exit status, what it said)."""
    command = [Path(sys.executable).with_name("netplane"), "cni", *words, "--root", str(node.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_commands_look_and_mend(node: CniNode):
    with pods(1) as (stays,):
        mapped = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
        assert node.call("ADD", "stays", stays, runtimeConfig=mapped).code == 0
        with pods(1) as (goes,):
            assert node.call("ADD", "goes", goes).code == 0
        until(lambda: len(node.links()) == 1, "the kernel to take the link with the namespace")
        assert netplane(node, "status") == (0, ANY)
        (first, second) = json.loads(netplane(node, "leases", "-o", "json")[1])
        assert (first["containerID"], first["addresses"], first["ports"]) == (
            "stays",
            ["10.244.1.2"],
            ["*:8080/tcp"],
        )
        assert second["containerID"] == "goes"
        assert netplane(node, "gc") == (0, "freed: netplane/goes/eth0\n")
        assert netplane(node, "gc") == (0, "")
        node.stop()
        code, said = netplane(node, "status")
        assert (code, "cni.sock" in said) == (1, True)
        assert "10.244.1.2" in netplane(node, "leases")[1]
        code, said = netplane(node, "gc")
        assert (code, said.count("\n"), "netplane cni serve" in said) == (1, 1, True)


def test_gc_without_a_daemon_is_an_error_that_names_the_socket(node: CniNode):
    node.stop()
    with pytest.raises(PeerError, match=r"cni\.sock.*netplane cni serve"):
        client.gc(node.root)


def test_the_supervisors_socket_is_used_and_survives_the_daemon(tmp_path):
    passed = """
import os, sys, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + "/run/netplane/cni.sock")
listener.listen(8)
os.dup2(listener.fileno(), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="cni")
"""
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        (tmp_path / "run/netplane").mkdir(parents=True)
        node.start(passed)
        inode = node.socket_path.stat().st_ino
        assert node.call("ADD", "pod-1", pod).code == 0
        node.stop()
        assert node.socket_path.stat().st_ino == inode, "it is the supervisor's to remove"


def test_a_stopped_daemon_finishes_what_it_has_begun(tmp_path):
    slow = """
import threading
from cni import netlink
applied = netlink.attach
def slow(*args, **keys):
    print("begun", flush=True, file=__import__("sys").stderr)
    threading.Event().wait(1)
    applied(*args, **keys)
netlink.attach = slow
"""
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,), ThreadPoolExecutor(1) as threads:
        node.start(slow)
        answer = threads.submit(node.call, "ADD", "pod-1", pod)
        until(lambda: "begun" in node.log, "the ADD to begin")
        node.stop(signal.SIGTERM)
        assert answer.result().code == 0
        assert [str(lease.state) for lease in node.leases()] == ["live"]


def test_a_del_waits_for_the_add_it_undoes(node: CniNode):
    with pods(8) as namespaces, ThreadPoolExecutor(16) as threads:
        for _ in range(3):
            adds = [threads.submit(node.call, "ADD", f"c{i}", pod) for i, pod in enumerate(namespaces)]
            ends = [threads.submit(node.call, "DEL", f"c{i}", pod) for i, pod in enumerate(namespaces)]
            assert [end.result().stdout for end in ends if end.result().code] == []
            assert [add.result().stdout for add in adds if add.result().code] == []
            for i in range(len(namespaces)):
                assert node.call("DEL", f"c{i}").code == 0
            assert node.residue() == {}


def test_clients_that_say_nothing_or_nonsense_harm_nobody(node: CniNode):
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for connection in silent:
            connection.connect(str(node.socket_path))
        silent[0].sendall(b"GET / HTTP/1.1\r\n\r\n            ")
        with pods(1) as (pod,):
            assert node.call("ADD", "pod-1", pod).code == 0
            assert node.call("DEL", "pod-1", pod).code == 0
    finally:
        for connection in silent:
            connection.close()


def test_no_descriptor_stays_open_after_many_verbs(node: CniNode):
    def held() -> int:
        assert node.daemon is not None
        return len(os.listdir(f"/proc/{node.daemon.pid}/fd"))  # noqa: PTH208

    with pods(1) as (pod,), ThreadPoolExecutor(8) as threads:

        def round_trip(number: int) -> None:
            node.call("ADD", f"c{number}", pod, ifname=f"net{number}")
            node.call("DEL", f"c{number}", pod, ifname=f"net{number}")

        list(threads.map(round_trip, range(16)))
        before = held()
        list(threads.map(round_trip, range(40)))
        assert until(lambda: held() <= before + 2, f"descriptors to fall back to {before}")
    assert node.residue() == {}


def test_the_daemon_says_why_it_cannot_start(tmp_path):
    root = tmp_path / ("x" * 100)
    root.mkdir()
    with cni_node(root, start=False) as node:
        node.start(expect_ready=False)
        assert node.died() == 2
        assert "100 bytes" in node.log
        assert "Traceback" not in node.log
