"""A control plane to be measured: the daemon itself, with files of its own, answering on a loopback address.

Nothing of the machine's own cluster is touched: root directory, port and certificates are made for this run.
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from controlplane.auth.files import write_cluster
from netplane.bench.place import cpu_seconds, memory_bytes
from netplane.bench.wire import Door, exchange, request
from netplane.config import Paths
from netplane.errors import PeerError
from netplane.kube.kubeconfig import Kubeconfig

ADDRESS = "127.0.0.1"
# What it says its address is, because a Service may not lead to a loopback address; and nodes that nobody runs are
# not missed meanwhile.
SETTINGS = """
addresses: [192.0.2.1]
listen: [127.0.0.1]
nodeMonitorGracePeriodSeconds: 3600
"""
START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A control plane that answers."""

    pid: int
    admin: Path

    @property
    def door(self) -> Door:
        """As the cluster's administrator."""
        return Door.of(Kubeconfig.load(self.admin))

    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        """Bytes it holds, its share of what it shares."""
        return memory_bytes(self.pid)


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """Start one and stop it. Raises PeerError with its last words if it does not come up."""
    with tempfile.TemporaryDirectory(prefix="np-bench-") as directory:
        root, port = Path(directory), _free_port()
        paths = Paths(root)
        write_cluster(paths.etc, server=f"https://{ADDRESS}:{port}", addresses=[ADDRESS])
        (paths.etc / "controlplane.yaml").write_text(SETTINGS + f"port: {port}\n")
        log = root / "controlplane.log"
        command = [sys.executable, "-m", "netplane", "controlplane", "--root", str(root)]
        with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            try:
                made = ApiServer(process.pid, paths.kubeconfig("admin"))
                _await(made, process, log)
                yield made
            finally:
                process.terminate()


def _await(made: ApiServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with made.door.connect() as connection:
                exchange(connection, request("GET", "/readyz"))
            return
        except (OSError, PeerError):
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text()[-400:]
                raise PeerError(f"cannot measure: the control plane does not answer. {said}") from None
            time.sleep(0.05)


def _free_port() -> int:
    with socket.create_server((ADDRESS, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
