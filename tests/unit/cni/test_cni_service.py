"""What carries requests: locks, the socket's bytes, the settings, the installed text."""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from cni import executable, wire
from cni.daemon import Settings
from cni.install import install
from cni.locks import Locks
from cni.observe import FRESH_SECONDS, Underlay
from cni.protocol import Attachment
from netplane import config
from netplane.config import Paths
from netplane.errors import ConfigError, PeerError

ONE, TWO = Attachment("n", "one", "eth0"), Attachment("n", "two", "eth0")


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_one_attachment_waits_for_itself_and_for_no_other():
    locks, entered = Locks(), threading.Event()

    def second():
        with locks.held(ONE):
            entered.set()

    with locks.held(ONE):
        thread = in_thread(second)
        with locks.held(TWO):
            assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()


def test_mending_waits_for_those_who_began_and_keeps_the_others_out():
    locks, order, waiting = Locks(), [], threading.Event()

    def mend():
        waiting.set()
        with locks.alone():
            order.append("mend")

    with locks.held(ONE):
        thread = in_thread(mend)
        waiting.wait(10)
        order.append("add")
    thread.join(10)
    with locks.held(TWO):
        order.append("later")
    assert order == ["add", "mend", "later"]


def test_the_underlays_mtu_is_read_once_for_a_burst():
    clock, mtus = [100.0], [1500, 1450]
    underlay = Underlay(lambda: mtus.pop(0), lambda: clock[0])
    assert [underlay.mtu(), underlay.mtu()] == [1500, 1500]
    clock[0] += FRESH_SECONDS
    assert underlay.mtu() == 1450


def test_a_request_crosses_the_socket_whole_with_its_namespace(tmp_path):
    here, there = socket.socketpair()
    stdin = os.urandom(1 << 20)
    environment = {"CNI_COMMAND": "ADD", "CNI_ARGS": "A=b=c", "CNI_NETNS": str(tmp_path), "HOME": "/x"}
    with here, there:
        thread = in_thread(lambda: executable.send(here, environment, stdin))
        call = wire.receive(there)
        thread.join(10)
        assert call.environment == {key: environment[key] for key in ("CNI_COMMAND", "CNI_ARGS", "CNI_NETNS")}
        assert call.stdin == stdin
        assert call.netns is not None
        assert os.fstat(call.netns).st_ino == tmp_path.stat().st_ino
        os.close(call.netns)
        wire.reply(there, 1, b'{"code": 7}\n')
        there.close()
        assert executable.receive(here) == (1, b'{"code": 7}\n')


def test_a_namespace_that_cannot_be_opened_is_none():
    here, there = socket.socketpair()
    with here, there:
        executable.send(here, {"CNI_NETNS": "/no/such"}, b"")
        assert wire.receive(there).netns is None


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\n\r\nxxxxxxxx", b"NPCNI1 00000004 00000000\nab", b"NPCNI1 7fffffff 00000000\n"],
)
def test_what_is_no_request_is_refused_and_leaks_nothing(sent):
    here, there = socket.socketpair()
    before = open_descriptors()
    with here, there:
        if sent:
            socket.send_fds(here, [sent], [0])
        here.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerError):
            wire.receive(there)
        assert open_descriptors() == before


@pytest.mark.parametrize("answer", [b"", b"garbage", b"x\nabc", b'0\n{"ips": ['])
def test_a_daemon_that_ends_before_it_answers_is_an_error(answer):
    here, there = socket.socketpair()
    with here:
        with there:
            there.sendall(answer)
        with pytest.raises(OSError, match="went away"):
            executable.receive(here)


NO_SHIM = Path("/no/such/shim")


def compiled(tmp_path):
    """As the compiler leaves it: a place of 256 bytes for each path."""
    path = tmp_path / "shim"
    words = [f"@NETPLANE-{name}@".encode().ljust(256, b"\0") for name in ("SOCKET", "PYTHON", "JOURNAL")]
    path.write_bytes(b"ELF" + b"code".join(words) + b"end")
    return path


def test_install_of_the_python_executable_writes_absolute_names(tmp_path):
    installed = install(tmp_path / "opt/cni/bin", Path(sys.executable), Paths(tmp_path / "x"), NO_SHIM)
    text = installed.path.read_text()
    assert installed.kind == "python"
    assert text.startswith(f"#!{sys.executable} -IS\n")
    assert f"SOCKET_PATH = '{tmp_path}/x/run/netplane/cni.sock'\n" in text
    assert f"JOURNAL_PATH = '{tmp_path}/x/var/lib/netplane/cni/journal'\n" in text
    assert installed.path.stat().st_mode & 0o777 == 0o755
    assert [p.name for p in installed.path.parent.iterdir()] == ["netplane"]
    install(installed.path.parent, Path(sys.executable), Paths(tmp_path / "y"), NO_SHIM)
    assert f"{tmp_path}/y/run" in installed.path.read_text()


def test_every_path_of_the_python_executable_is_replaced(tmp_path):
    text = install(tmp_path / "bin", Path("/py"), Paths(tmp_path), NO_SHIM).path.read_text()
    for name in ("/run/netplane/cni.sock", "/usr/bin/python3", "/var/lib/netplane/cni/journal"):
        assert f'"{name}"' not in text


def test_install_of_the_shim_fills_its_places_and_nothing_moves(tmp_path):
    shim = compiled(tmp_path)
    installed = install(tmp_path / "bin", Path(sys.executable), Paths(tmp_path), shim)
    content = installed.path.read_bytes()
    assert installed.kind == "shim"
    assert len(content) == shim.stat().st_size
    assert b"@NETPLANE" not in content
    for path in (tmp_path / "run/netplane/cni.sock", Path(sys.executable)):
        assert bytes(path) + b"\0" in content


def test_a_shim_of_another_netplane_is_refused(tmp_path):
    (tmp_path / "shim").write_bytes(b"ELF without places")
    with pytest.raises(ConfigError, match=r"not of this netplane.*dev setup"):
        install(tmp_path / "bin", Path("/py"), Paths(tmp_path), tmp_path / "shim")


@pytest.mark.parametrize(
    ("python", "root"),
    [("python3", "/r"), ("/usr/bin/python3", "r"), ("/a b/py", "/r"), ("/" + "p" * 300, "/r")],
)
@pytest.mark.parametrize("built", [False, True])
def test_install_refuses_what_a_runtime_could_not_run(tmp_path, python, root, built):
    shim = compiled(tmp_path) if built and " " not in python else NO_SHIM
    with pytest.raises(ConfigError):
        install(tmp_path / "bin", Path(python), Paths(Path(root)), shim)
    assert not (tmp_path / "bin").exists()


def test_install_into_a_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        install(tmp_path / "file", Path("/usr/bin/python3"), Paths(Path("/x")), NO_SHIM)


@pytest.mark.parametrize(
    ("document", "named"), [({"workers": 0}, "workers"), ({"mtu": 1}, "mtu"), ({"mtus": 1}, "mtus")]
)
def test_wrong_settings_are_named(document, named):
    with pytest.raises(ConfigError, match=named):
        config.parse(Settings, document, "cni.yaml")
