"""A daemon's life as systemd and `netplane supervise` see it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, sys
from netplane import runner
from netplane.errors import ConfigError, KernelError

async def main(daemon):
    if sys.argv[1] in ("fail", "misuse"):
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())
    sock = daemon.listeners.get("api")
    if sock:
        daemon.store("api", sock[0].fileno())
    daemon.ready("up")
    await daemon.stopping.wait()

async def broken():
    raise (ConfigError if sys.argv[1] == "misuse" else KernelError)("cannot start:\\n the test says so", "Fix it")

sys.exit(runner.run(main, name="sample", loop=sys.argv[2]))
"""


def start(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(10)
    listener = socket.create_server(("127.0.0.1", 0))
    script = f'exec 3<&{listener.fileno()}; export LISTEN_PID=$$; exec "$@"'
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "api",
    }
    command = ["bash", "-c", script, "bash", sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()], stderr=subprocess.PIPE)
    listener.close()
    return process, notify


def test_ready_store_and_stop(tmp_path: Path) -> None:
    for loop in ("asyncio", "uvloop"):
        folder = tmp_path / loop
        folder.mkdir()
        process, notify = start(folder, "serve", loop)
        with process, notify:
            stored, descriptors, _, _ = socket.recv_fds(notify, 1024, 4)
            assert stored == b"FDSTORE=1\nFDNAME=api"
            with socket.socket(fileno=descriptors[0]) as kept:
                assert kept.getsockname()[0] == "127.0.0.1"
            assert notify.recv(1024) == b"READY=1\nSTATUS=up"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


@pytest.mark.parametrize(("how", "status"), [("fail", 1), ("misuse", 2)])
def test_an_error_is_one_line_and_a_status(tmp_path: Path, how: str, status: int) -> None:
    process, notify = start(tmp_path, how, "asyncio")
    with process, notify:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == status
    assert errors.decode() == "netplane sample: cannot start: the test says so. Fix it\n"
