"""A node for CNI tests: a namespace, a root directory, the daemon in it and the installed executable."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni import client
from cni.install import SHIM, install
from cni.leases import Lease, read, store_path
from netplane.config import Paths
from netplane.errors import PeerError
from netplane.linux.namespaces import entered_netns, new_netns
from netplane.linux.rtnl import rtnl

DAEMON = """
import sys
from pathlib import Path
from cni import daemon
from netplane import runner
settings = daemon.Settings(root=Path(sys.argv[1]))
sys.exit(runner.run(lambda d: daemon.serve(settings, d), name="cni", loop="asyncio"))
"""
POD_CIDR = "10.244.1.0/24"


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of ``condition``; fails after a deadline, naming what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for {what}")


@dataclass
class Answer:
    code: int
    stdout: bytes
    stderr: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class CniNode:
    root: Path
    netns: int
    outside: int
    shim: Path = SHIM
    daemon: subprocess.Popen[bytes] | None = None
    plugin: Path = field(init=False)

    def __post_init__(self) -> None:
        paths = Paths(self.root)
        self.plugin = install(paths.cni_bin_dir, Path(sys.executable), paths, self.shim).path

    @property
    def socket_path(self) -> Path:
        return Paths(self.root).cni_socket

    @property
    def log(self) -> str:
        return (self.root / "daemon.log").read_text()

    def start(self, before: str = "", *, expect_ready: bool = True) -> None:
        """Run the daemon in the node's namespace; ``before`` is code of the test's own, run in it first."""
        command = ["nsenter", f"--net=/proc/self/fd/{self.netns}", sys.executable, "-c", before + DAEMON]
        repository = Path(__file__).parents[2]
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*command, str(self.root)], pass_fds=[self.netns], stderr=log, cwd=repository
            )
        if expect_ready:
            until(lambda: self._answers() or self._exited(), "the daemon to listen")
            assert self._exited() is False, self.log

    def _exited(self) -> bool:
        return self.daemon is not None and self.daemon.poll() is not None

    def _answers(self) -> bool:
        try:
            client.call(self.socket_path, {"CNI_COMMAND": "VERSION"})
        except PeerError:
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(number)
            self.daemon.wait(20)
            self.daemon = None

    def died(self) -> int:
        """Wait for a daemon that ends by itself; its exit status."""
        assert self.daemon is not None
        status = self.daemon.wait(20)
        self.daemon = None
        return status

    def run(self, environment: dict[str, str], stdin: bytes) -> Answer:
        done = subprocess.run(
            [self.plugin], env=environment, input=stdin, capture_output=True, timeout=90, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def call(
        self,
        command: str,
        container: str = "",
        netns: int | str | None = None,
        *,
        config: dict[str, Any] | None = None,
        ifname: str = "eth0",
        args: str = "",
        **keys: Any,
    ) -> Answer:
        """Run the executable as a runtime does; ``keys`` change the configuration (``cniVersion=...``)."""
        environment = {"CNI_COMMAND": command, "CNI_PATH": str(self.plugin.parent), "PATH": os.defpath}
        if container:
            environment |= {"CNI_CONTAINERID": container, "CNI_IFNAME": ifname}
        if netns is not None:
            environment["CNI_NETNS"] = netns_path(netns) if isinstance(netns, int) else netns
        if args:
            environment["CNI_ARGS"] = args
        document = network(**keys) if config is None else config
        return self.run(environment, json.dumps(document).encode())

    def leases(self) -> list[Lease]:
        return read(store_path(Paths(self.root).state))

    def links(self) -> set[str]:
        """Names of the host ends in the node."""
        with rtnl(self.netns) as ipr:
            names = {entry.get_attr("IFLA_IFNAME") for entry in ipr.get_links()}
        return {name for name in names if name.startswith("np")}

    def nft(self) -> str:
        return self.command("nft", "list", "table", "inet", "netplane_cni", check=False)

    def command(self, *words: str, check: bool = True) -> str:
        """A command in the node's namespace."""
        return run_in(self.netns, *words, check=check)

    def residue(self) -> dict[str, Any]:
        """What is left of any pod: all empty on a clean node."""
        routes = self.command("ip", "-N", "route", "show", "proto", "97").split("\n")
        neighbours = self.command("ip", "neigh", "show", "nud", "permanent").split("\n")
        elements = [line for line in self.nft().splitlines() if "10.244." in line and "daddr" not in line]
        found = {
            "leases": self.leases(),
            "links": sorted(self.links()),
            "routes": [r for r in routes if r.strip()],
            "neighbours": [n for n in neighbours if n.strip() and "np" in n],
            "elements": elements,
        }
        return {key: value for key, value in found.items() if value}


def network(**keys: Any) -> dict[str, Any]:
    """The configuration the node agent writes, as a plugin receives it."""
    document: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "netplane",
        "type": "netplane",
        "ipam": {"ranges": [[POD_CIDR]]},
        "masquerade": {"exclude": ["10.244.0.0/16", "10.96.0.0/12"]},
    }
    return {key: value for key, value in {**document, **keys}.items() if value is not None}


def netns_path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def run_in(netns: int, *words: str, check: bool = True) -> str:
    command = ["nsenter", f"--net=/proc/self/fd/{netns}", *words]
    done = subprocess.run(command, pass_fds=[netns], capture_output=True, text=True, check=False, timeout=60)
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


NODE_ADDRESS, OUTSIDE_ADDRESS = "192.168.77.11", "192.168.77.1"


@contextmanager
def cni_node(root: Path, *, start: bool = True, shim: Path = SHIM) -> Iterator[CniNode]:
    """A node with its daemon running, and an outside that knows no pod; gone afterwards."""
    node = CniNode(root, new_netns(), new_netns(), shim)
    try:
        for netns in (node.netns, node.outside):
            run_in(netns, "ip", "link", "set", "lo", "up")
        with rtnl(node.netns) as ipr:
            peer = {"ifname": "eth0", "net_ns_fd": node.outside}
            ipr.link("add", ifname="eth0", kind="veth", peer=peer)
        for netns, address in ((node.netns, NODE_ADDRESS), (node.outside, OUTSIDE_ADDRESS)):
            run_in(netns, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            run_in(netns, "ip", "link", "set", "eth0", "up")
        if start:
            node.start()
        yield node
    finally:
        if node.daemon is not None and node.daemon.poll() is None:
            node.stop(signal.SIGKILL)
        os.close(node.netns)
        os.close(node.outside)


@contextmanager
def pods(count: int) -> Iterator[list[int]]:
    """Empty namespaces."""
    made = [new_netns() for _ in range(count)]
    try:
        yield made
    finally:
        for descriptor in made:
            os.close(descriptor)


def in_netns(netns: int, make: Callable[[], Any]) -> Any:
    with entered_netns(netns):
        return make()
