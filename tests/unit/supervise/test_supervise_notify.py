"""The supervisor's ear: sd_notify messages, and descriptors that are kept."""

import os
import socket

import pytest

from netplane.node.supervise.notify import MOST_NAMES, Notice, Store, open_socket, parse, receive
from netplane.node.supervise.process import environment_for


@pytest.mark.parametrize(
    ("message", "notice"),
    [
        (b"READY=1", Notice(ready=True)),
        (b"READY=1\nSTATUS=listening on 6443\n", Notice(ready=True, status="listening on 6443")),
        (b"STATUS=a=b", Notice(status="a=b")),
        (b"FDSTORE=1\nFDNAME=http", Notice(store=True, name="http")),
        (b"FDSTORE=1", Notice(store=True)),
        (b"FDSTOREREMOVE=1\nFDNAME=http", Notice(remove=True, name="http")),
        (b"FDSTORE=1\nFDNAME=a:b", Notice(store=True, name="stored")),
        (b"STOPPING=1\nMAINPID=7\nnonsense", Notice(stopping=True)),
        (b"\xff\xfe=1", Notice()),
    ],
)
def test_parse(message, notice):
    assert parse(message) == notice


def test_the_same_socket_is_kept_once_and_outlives_the_sender():
    store = Store()
    left, right = socket.socketpair()
    store.add("flow", [left.fileno()])
    store.add("flow", [left.fileno()])
    (held,) = store.held()
    left.close()
    os.write(held.fd, b"still here")
    assert right.recv(20) == b"still here"
    store.close()
    assert right.recv(20) == b""
    right.close()


def test_no_more_is_kept_than_a_daemon_can_be_told_of(caplog):
    """All names go into one string of its environment: with one too many it could never be started again."""
    store, name = Store(), "n" * 255
    left, right = socket.socketpair()
    with left, right:
        for number in range(MOST_NAMES // 256 + 10):
            store.add(f"{number:03}{name[3:]}", [left.fileno()])
        told = environment_for(os.environ, store.held(), None, {})
        pid = os.posix_spawnp("true", ["true"], told)
        assert os.waitpid(pid, 0)[1] == 0
        assert "no more names fit" in caplog.text
        store.remove(f"000{name[3:]}")
        kept = len(store.held())
        store.add("another", [left.fileno()])
        assert len(store.held()) == kept + 1
        store.close()


def test_both_ends_of_a_pipe_are_two_things():
    store = Store()
    reading, writing = os.pipe()
    store.add("pipe", [reading, writing])
    assert [held.name for held in store.held()] == ["pipe", "pipe"]
    store.remove("other")
    assert len(store.held()) == 2
    store.remove("pipe")
    assert store.held() == []
    os.close(reading)
    os.close(writing)


def test_descriptors_arrive_with_their_message(tmp_path):
    path = tmp_path / "n.sock"
    listener = open_socket(path)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(str(path))
    assert receive(listener) is None
    reading, writing = os.pipe()
    socket.send_fds(sender, [b"FDSTORE=1\nFDNAME=p"], [reading, writing])
    notice, fds = receive(listener)
    assert notice == Notice(store=True, name="p")
    os.write(fds[1], b"x")
    assert os.read(reading, 1) == b"x"
    for fd in (reading, writing, *fds):
        os.close(fd)
    sender.close()
    listener.close()
