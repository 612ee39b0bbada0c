"""A control plane with files of its own, as a process that tests start, kill and start again."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane.auth.files import write_cluster
from netplane.config import Paths
from netplane.errors import PeerError
from netplane.kube.client import Client
from netplane.kube.kubeconfig import Kubeconfig

LIVES = Path(__file__).with_name("lives.py")
SETTINGS = "addresses: [192.0.2.1]\nlisten: [127.0.0.1]\n"


@dataclass
class ControlPlane:
    """One root directory through many lives."""

    root: Path
    launcher: asyncio.subprocess.Process
    pid: int = 0

    @property
    def paths(self) -> Paths:
        return Paths(self.root)

    @property
    def kubeconfig(self) -> Kubeconfig:
        return Kubeconfig.load(self.paths.kubeconfig("admin"))

    @property
    def state(self) -> Path:
        """The state directory as the control plane sees it, in its mount namespace."""
        return Path(f"/proc/{self.launcher.pid}/root{self.paths.state}")

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    async def ask(self, line: str) -> int:
        self.launcher.stdin.write(f"{line}\n".encode())
        return int(await self.launcher.stdout.readline())

    async def start(self) -> None:
        """A new life; returns when it answers."""
        self.pid = await self.ask("start")
        async with asyncio.timeout(30), Client(self.kubeconfig) as client:
            while True:
                try:
                    await client.raw("GET", "/version")
                    return
                except PeerError:
                    assert Path(f"/proc/{self.pid}/stat").read_text().split()[2] != "Z", self.log
                    await asyncio.sleep(0.01)

    async def end(self, number: int = signal.SIGKILL) -> int:
        """Its exit status, or minus the signal."""
        os.kill(self.pid, number)
        return await self.wait()

    async def wait(self) -> int:
        pid, self.pid = self.pid, 0
        return await self.ask(str(pid))

    async def fails_to_start(self) -> str:
        """The one line that it ends with."""
        before = len(self.log)
        self.pid = await self.ask("start")
        assert await self.wait() == 1
        (line,) = [line for line in self.log[before:].splitlines() if line.startswith("netplane ")]
        return line


@asynccontextmanager
async def control_plane(root: Path, size: str = ""):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    etc = Paths(root).etc
    write_cluster(etc, server=f"https://127.0.0.1:{port}", addresses=["127.0.0.1"])
    (etc / "controlplane.yaml").write_text(f"{SETTINGS}port: {port}\n")
    with (root / "log").open("ab") as log:
        launcher = await asyncio.create_subprocess_exec(
            *(sys.executable, LIVES, root, *([size] if size else [])),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    made = ControlPlane(root, launcher)
    try:
        yield made
    finally:
        if made.pid:
            await made.end()
        launcher.stdin.close()
        await launcher.wait()


@pytest.fixture
async def plane(tmp_path):
    async with control_plane(tmp_path) as made:
        yield made


def configmap(name, value):
    return {"metadata": {"name": name}, "data": {"n": value}}
