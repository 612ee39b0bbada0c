"""Where proxies are measured: a client pod, a node and an endpoint pod, each a network namespace of its own.

Why the real daemon and a snapshot on disk: what is measured is the process that nodes run, started as it is
when the API is away, and nothing that was made for measuring.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
import yaml

from netplane.config import Paths
from netplane.errors import ConfigError, PeerError, cause_of
from netplane.linux import sysctl
from netplane.linux.cgroups import Cgroup, detect
from netplane.linux.namespaces import entered_netns, new_netns, socket_in
from netplane.linux.orphans import own
from netplane.linux.rtnl import rtnl
from proxy.ebpf.pins import missing_hooks

NODE, CLIENT, SERVER = "192.0.2.1", "10.244.1.2", "10.244.1.3"
CLUSTER_IP, PORT, SERVED = "10.96.0.1", 80, 8080
PLAIN, SPLICE = 8001, 8002
POD_ROUTES = 97  # the CNI plugin's route protocol: these are pods
# ... and its settings of a pod's link, for every subject (`cni.templates.LINK_SETTINGS`): with rp_filter each packet's
# source is looked up in the routes.
POD_LINK = {"forwarding": "1", "accept_redirects": "0", "rp_filter": "1"}
DEADLINE = 15.0  # seconds for a proxy to answer
LOAD = Path(__file__).with_name("load.c")
HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  {source}
listen plain
  bind {node}:{plain}
  server one {server}:{served}
listen splice
  bind {node}:{splice}
  option splice-auto
  option splice-request
  option splice-response
  server one {server}:{served}
"""


Services = Mapping[tuple[str, int], Sequence[tuple[str, int]]]  # ClusterIP and port → endpoints
ONE: Services = {(CLUSTER_IP, PORT): [(SERVER, SERVED)]}


@dataclass
class Place:
    """The namespaces by name (node, client, server), and the programs that run there until it is left.

    The node's root is ``directory``/root; clients run in the node's cgroup, as pods do.
    """

    directory: Path
    netns: dict[str, int]
    load_program: Path
    cgroup: Cgroup
    running: list[subprocess.Popen[Any]] = field(default_factory=list)

    def start(self, where: str, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Run a program in a namespace; it is killed when the place is left."""
        process = subprocess.Popen(self._within(where, command), pass_fds=[self.netns[where]], **options)
        self.running.append(process)
        return process

    def run(self, where: str, command: Sequence[str], feed: str = "") -> str:
        """Run a program to its end, fed from a string; what it printed. Raises PeerError where it fails."""
        command_line, passed = self._within(where, command), [self.netns[where]]
        done = subprocess.run(
            command_line, pass_fds=passed, input=feed, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise PeerError(f"cannot run {command[0]}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def load(self, kind: str, address: str, port: int, seconds: float, parallel: int) -> list[float]:
        """One client run: count, seconds, p50, p99, failures (see load.c)."""
        command = [str(self.load_program), kind, address, str(port), str(seconds), str(parallel)]
        return [float(word) for word in self.run("client", command).split()]

    def wait_for(self, address: str, port: int, log: Path | None = None) -> None:
        """Until somebody accepts. Raises PeerError."""
        deadline = time.monotonic() + DEADLINE
        while True:
            with socket_in(self.netns["client"], socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                if probe.connect_ex((address, port)) == 0:
                    return
            if time.monotonic() > deadline:
                said = log.read_text()[-400:] if log is not None else ""
                raise PeerError(f"cannot reach {address}:{port} after {DEADLINE:.0f} s. {said}")
            time.sleep(0.02)

    def _within(self, where: str, command: Sequence[str]) -> list[str]:
        enter = ["nsenter", f"--net=/proc/self/fd/{self.netns[where]}", "--", *command]
        if where != "client":
            return enter
        joins = "".join(f"echo 0 > {path}; " for path in self.cgroup.procs)
        return ["/bin/sh", "-ec", f'{joins}exec "$@"', "sh", *enter]


@contextmanager
def linked(directory: Path, load: Path, served: Sequence[int] = (SERVED,)) -> Iterator[Place]:
    """Namespaces with links between them and the load's servers, and no proxy. Raises PeerError."""
    directory.mkdir(exist_ok=True)
    cgroup = Cgroup(detect(), PurePosixPath(Paths(directory / "root").cgroup_name))
    with ExitStack() as left:
        own(cgroup)
        left.callback(cgroup.remove)
        made = Place(directory, {name: new_netns() for name in ("node", "client", "server")}, load, cgroup)
        left.callback(_leave, made)
        _link(made)
        for port in served:
            made.start("server", [str(load), "server", str(port)])
            made.wait_for(SERVER, port)
        yield made


@contextmanager
def place(
    directory: Path,
    say: Callable[[str], None],
    *,
    haproxy: bool = True,
    services: Services = ONE,
    workers: int = 0,
    supervised: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Place]:
    """Namespaces, the load's servers, netplane and HAProxy, all answering. Raises ConfigError, PeerError.

    ``services``: what is proxied, all to endpoints in the server's namespace.
    ``supervised``: the proxy is a daemon of ``netplane supervise``, which may restart it. ``environment``: variables
    it has beside ours.
    """
    served = sorted({port for endpoints in services.values() for _, port in endpoints})
    with linked(directory, build_load(directory), served) as made:
        say("starting the proxies")
        start_netplane(
            made, services=services, workers=workers, supervised=supervised, environment=environment
        )
        if haproxy:
            start_haproxy(made)
        yield made


def family(pid: int) -> list[int]:
    """A process and all that it has started, and they in turn."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(one for child in path.read_text().split() for one in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process and its family, exact to nanoseconds (schedstat, proc(5))."""
    tasks = (task for one in family(pid) for task in Path(f"/proc/{one}/task").glob("*/schedstat"))
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def memory_bytes(pid: int) -> int:
    """Proportional set size of a process and its family: what they share counts once."""
    rollups = (Path(f"/proc/{one}/smaps_rollup").read_text() for one in family(pid))
    lines = (line for rollup in rollups for line in rollup.splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _leave(made: Place) -> None:
    """Kill all that runs there: workers of a proxy that is killed alone would go on for its next one."""
    for pid in {pid for process in made.running if process.poll() is None for pid in family(process.pid)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in made.running:
        process.wait()
    for descriptor in made.netns.values():
        os.close(descriptor)


def _link(made: Place) -> None:
    node = made.netns["node"]
    _up(node, "lo")
    with rtnl(node) as ipr:
        ipr.addr("add", index=ipr.link_lookup(ifname="lo")[0], address=NODE, prefixlen=32)
    for name, address in (("client", CLIENT), ("server", SERVER)):
        inner = made.netns[name]
        with rtnl(node) as ipr:
            peer = {"ifname": "eth0", "net_ns_fd": inner}
            ipr.link("add", ifname=f"to-{name}", kind="veth", peer=peer)
            index = ipr.link_lookup(ifname=f"to-{name}")[0]
            ipr.link("set", index=index, state="up")
        for link in ("lo", "eth0"):
            _up(inner, link)
        with rtnl(inner) as ipr:
            eth0 = ipr.link_lookup(ifname="eth0")[0]
            ipr.addr("add", index=eth0, address=address, prefixlen=32)
            ipr.route("add", dst=f"{NODE}/32", oif=eth0, scope=253)
            ipr.route("add", dst="0.0.0.0/0", gateway=NODE, oif=eth0)
        with rtnl(node) as ipr:
            ipr.route("add", dst=f"{address}/32", oif=index, scope=253, proto=POD_ROUTES)
    links = {
        f"net.ipv4.conf.to-{name}.{key}": value
        for name in ("client", "server")
        for key, value in POD_LINK.items()
    }
    for name, settings in (
        ("node", {"net.ipv4.ip_forward": "1", **links}),
        ("client", {"net.ipv4.ip_local_port_range": "30000 60999", "net.ipv4.tcp_tw_reuse": "1"}),
    ):
        with entered_netns(made.netns[name]):
            for key, value in settings.items():
                sysctl.write(key, value)


def _up(netns: int, link: str) -> None:
    with rtnl(netns) as ipr:
        ipr.link("set", index=ipr.link_lookup(ifname=link)[0], state="up")


def build_load(directory: Path) -> Path:
    """The load's program. Raises ConfigError."""
    program = directory / "load"
    command = ["cc", "-O2", "-o", str(program), str(LOAD)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"cannot build the load: {cause_of(error)}", "./dev setup bench installs a C compiler"
        ) from None
    return program


def start_netplane(
    made: Place,
    mode: str = "userspace",
    services: Services = ONE,
    *,
    workers: int = 0,
    supervised: bool = False,
    environment: Mapping[str, str] | None = None,
    host_routing: str = "auto",
) -> None:
    """The daemon, from a snapshot on the disk, until it serves. Raises PeerError."""
    root = made.directory / "root"
    etc, state = root / "etc/netplane", root / "var/lib/netplane"
    etc.mkdir(parents=True)
    state.mkdir(parents=True)
    (state / "proxy-snapshot.json").write_bytes(orjson.dumps(_snapshot(services)))
    settings = {"nodeName": "bench", "nodeAddresses": [NODE], "workers": workers, "mode": mode}
    settings |= {} if host_routing == "auto" else {"hostRouting": host_routing}
    (etc / "proxy.yaml").write_text(yaml.safe_dump(settings))
    (etc / "proxy.kubeconfig").write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "users: [{name: u, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
    )
    command = [sys.executable, "-P", "-m", "netplane", "proxy", "--root", str(root)]
    if supervised:
        daemons = {"daemons": [{"name": "proxy", "command": command}]}
        (etc / "supervise.yaml").write_text(yaml.safe_dump(daemons))
        command = [sys.executable, "-P", "-m", "netplane", "supervise", "--root", str(root)]
    # Its own mounts: the BPF file system of ebpf mode, and with it what is pinned there, ends with the process.
    command = ["unshare", "--mount", "--", *command]
    log = made.directory / "netplane.log"
    with log.open("ab") as output:
        variables = {**os.environ, **(environment or {})}
        made.start("node", command, stdout=output, stderr=output, env=variables)
    made.wait_for(CLUSTER_IP, PORT, log)
    if mode == "ebpf":
        _wait_for_hooks(made)


def _wait_for_hooks(made: Place) -> None:
    """What lies beneath answers before the hooks are there, and is not what is to be measured."""
    unified = made.cgroup.layout.unified
    assert unified is not None
    deadline = time.monotonic() + DEADLINE
    while missing := missing_hooks(unified / made.cgroup.path):
        if time.monotonic() > deadline:
            raise PeerError(f"cannot measure ebpf: no program at {', '.join(missing)} after {DEADLINE:.0f} s")
        time.sleep(0.02)


def _snapshot(services: Services) -> dict[str, Any]:
    """What a proxy keeps on disk (``proxy.saved``): ClusterIPs with endpoints on this node."""
    return {
        "format": 1,
        "revision": 1,
        "node": {
            "name": "bench",
            "addresses": [NODE],
            "podCIDRs": ["10.244.1.0/24"],
            "clusterCIDRs": ["10.244.0.0/16"],
            "serviceCIDRs": ["10.96.0.0/12"],
            "zone": "",
        },
        "targets": [
            {
                "frontend": {"address": address, "port": port, "protocol": "TCP"},
                "service": {"namespace": "bench", "name": f"s{number}", "port": "80"},
                "inside": {
                    "endpoints": [
                        {"address": at, "port": served, "local": True, "terminating": False}
                        for at, served in endpoints
                    ],
                    "whenEmpty": "reject",
                },
            }
            for number, ((address, port), endpoints) in enumerate(services.items())
        ],
    }


def start_haproxy(made: Place, *, keep_client: bool = True) -> None:
    """HAProxy, with and without splice, until it serves. Raises ConfigError, PeerError.

    ``keep_client``: endpoints see the client's own address, which needs the rules of our userspace mode.
    """
    config = made.directory / "haproxy.cfg"
    # The client's own address, as ours; our rules bring the replies back to whatever socket has it.
    source = "source 0.0.0.0 usesrc clientip" if keep_client else ""
    names = {"node": NODE, "plain": PLAIN, "splice": SPLICE, "server": SERVER, "served": SERVED}
    config.write_text(HAPROXY.format(source=source, **names))
    log = made.directory / "haproxy.log"
    try:
        with log.open("ab") as output:
            made.start("node", ["haproxy", "-db", "-f", str(config)], stdout=output, stderr=output)
    except OSError as error:
        raise ConfigError(f"cannot run haproxy: {cause_of(error)}", "./dev setup bench installs it") from None
    made.wait_for(NODE, PLAIN, log)
