"""What an ADD and a DEL cost, beside the reference plugins: same machine, same minutes, one after the other in turn.

Everything happens in namespaces of our own: one is a netplane node with its daemon, one a node with a bridge. Each
contender does what a runtime asks for by starting the executables; the clock runs from the start of the first
process to the end of the last. Processor time is that of these processes and all they started, and for netplane that
of its daemon as well.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni import client
from cni.install import install
from netplane.bench.statistics import Summary, summarize
from netplane.config import Paths
from netplane.errors import ConfigError, KernelError
from netplane.linux.namespaces import entered_netns, new_netns
from netplane.linux.rtnl import rtnl

PLUGINS = Path("/usr/lib/cni")
AT_ONCE = 50
_START_SECONDS = 20.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Contender:
    """A network: where its executables are, what they are told, and the namespace they run in."""

    name: str
    directory: Path
    plugins: tuple[Json, ...]
    netns: int
    daemon: int | None = None
    port: int | None = None  # mapped to the pod: this and the following ones


@dataclass(slots=True)
class Sample:
    """Milliseconds of each ADD and DEL, processor milliseconds of each ADD, and calls a second of each burst."""

    add: list[float] = field(default_factory=list)
    delete: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    adds_at_once: list[float] = field(default_factory=list)
    dels_at_once: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender's figures; milliseconds and calls a second."""

    name: str
    add: Summary
    delete: Summary
    cpu: Summary
    adds_at_once: Summary
    dels_at_once: Summary


def measure(count: int, bursts: int, say: Callable[[str], None]) -> list[Measured]:
    """``count`` ADDs and DELs of each contender in turn, then ``bursts`` times fifty at once. Root is needed.

    Raises ConfigError where the reference plugins are not installed, KernelError where a plugin fails.
    """
    _need()
    with tempfile.TemporaryDirectory(prefix="np-bench-") as directory, ExitStack() as stack:
        contenders = stack.enter_context(_contenders(Path(directory)))
        samples = {contender.name: Sample() for contender in contenders}
        pods = [_closing(stack, new_netns()) for _ in range(AT_ONCE)]
        for number in range(count):
            for contender in contenders:
                _one(contender, samples[contender.name], number, pods[number % AT_ONCE])
            if number % 50 == 49:
                say(f"{number + 1} of {count} ADDs and DELs each")
        for number in range(bursts):
            for contender in contenders:
                _many(contender, samples[contender.name], pods)
            say(f"{number + 1} of {bursts} times fifty at once")
    return [_measured(name, sample) for name, sample in samples.items()]


def _need() -> None:
    missing = [name for name in ("bridge", "host-local", "portmap") if not (PLUGINS / name).exists()]
    missing += [name for name in ("iptables",) if shutil.which(name) is None]
    if missing:
        hint = "./dev setup bench installs containernetworking-plugins and iptables"
        raise ConfigError(f"cannot measure: {', '.join(missing)} is not installed", hint)


def _measured(name: str, sample: Sample) -> Measured:
    parts = (sample.add, sample.delete, sample.cpu, sample.adds_at_once, sample.dels_at_once)
    return Measured(name, *(summarize(part) for part in parts))


# --- the contenders ---------------------------------------------------------------------------------------


@contextmanager
def _contenders(directory: Path) -> Iterator[list[Contender]]:
    with ExitStack() as stack:
        ours, theirs, chained = (_closing(stack, _node()) for _ in range(3))
        daemon = stack.enter_context(_daemon(directory / "node", ours))
        bridge = _bridge(directory, "bridge", masquerade=False)
        chain = (_bridge(directory, "chain", masquerade=True), _PORTMAP)
        own = Paths(directory / "node").cni_bin_dir
        yield [
            Contender("netplane", own, (_NETPLANE,), ours, daemon),
            Contender("bridge+host-local", PLUGINS, (bridge,), theirs),
            Contender("netplane, masquerade, port", own, (_MASQUERADING,), ours, daemon, port=30000),
            Contender("bridge+host-local, ipMasq+portmap", PLUGINS, chain, chained, port=30000),
        ]


_NETPLANE: Json = {"type": "netplane", "ipam": {"ranges": [["10.88.0.0/16"]]}}
_MASQUERADING: Json = {
    **_NETPLANE,
    "masquerade": {"exclude": ["10.88.0.0/16"]},
    "capabilities": {"portMappings": True},
}
_PORTMAP: Json = {"type": "portmap", "capabilities": {"portMappings": True}}


def _bridge(directory: Path, name: str, *, masquerade: bool) -> Json:
    data = str(directory / "host-local")
    ranges = [[{"subnet": "10.88.0.0/16"}]]
    ipam = {"type": "host-local", "dataDir": data, "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    base = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": masquerade, "ipam": ipam}
    return {**base, "name": name}


def _node() -> int:
    """A namespace with what a node has: lo up, a link with an address and a default route."""
    netns = new_netns()
    with rtnl(netns) as ipr:
        ipr.link("set", index=1, state="up")
        ipr.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"})
        for name in ("eth0", "far0"):
            ipr.link("set", index=ipr.link_lookup(ifname=name)[0], state="up")
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.addr("add", index=index, address="192.168.77.11", prefixlen=24)
        ipr.route("add", dst="default", gateway="192.168.77.1")
    return netns


@contextmanager
def _daemon(root: Path, netns: int) -> Iterator[int]:
    """`netplane cni serve` in a namespace; its process id."""
    install(Paths(root).cni_bin_dir, Path(sys.executable), Paths(root))
    command = [sys.executable, "-m", "netplane", "cni", "serve", "--root", str(root)]
    environment = {**os.environ, "NETPLANE_LOG": "WARNING"}
    with entered_netns(netns), subprocess.Popen(command, env=environment) as process:
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not client.status(root).running:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise KernelError("cannot measure: the CNI daemon did not start")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()


def _closing(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


# --- one call ---------------------------------------------------------------------------------------------


def _one(contender: Contender, sample: Sample, number: int, pod: int) -> None:
    with entered_netns(contender.netns):
        before = _processor(contender)
        began = time.perf_counter()
        result = _add(contender, number, pod)
        sample.add.append((time.perf_counter() - began) * 1000)
        sample.cpu.append((_processor(contender) - before) * 1000)
        began = time.perf_counter()
        _delete(contender, number, pod, result)
        sample.delete.append((time.perf_counter() - began) * 1000)


def _many(contender: Contender, sample: Sample, pods: Sequence[int]) -> None:
    """Fifty ADDs at once, then fifty DELs at once."""

    def added(pair: tuple[int, int]) -> Json:
        with entered_netns(contender.netns):
            return _add(contender, *pair)

    def deleted(triple: tuple[int, int, Json]) -> None:
        with entered_netns(contender.netns):
            _delete(contender, *triple)

    with ThreadPoolExecutor(len(pods)) as threads:
        began = time.perf_counter()
        results = list(threads.map(added, enumerate(pods)))
        middle = time.perf_counter()
        list(threads.map(deleted, zip(range(len(pods)), pods, results, strict=True)))
        ended = time.perf_counter()
    sample.adds_at_once.append(len(pods) / (middle - began))
    sample.dels_at_once.append(len(pods) / (ended - middle))


def _add(contender: Contender, number: int, pod: int) -> Json:
    """Every plugin of the chain, as a runtime does it; the last result."""
    result: Json = {}
    for plugin in contender.plugins:
        result = json.loads(_run(contender, plugin, "ADD", number, pod, result))
    return result


def _delete(contender: Contender, number: int, pod: int, result: Json) -> None:
    for plugin in reversed(contender.plugins):
        _run(contender, plugin, "DEL", number, pod, result)


def _run(contender: Contender, plugin: Json, verb: str, number: int, pod: int, result: Json) -> bytes:
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": f"bench-{number}",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": f"/proc/{os.getpid()}/fd/{pod}",
        "CNI_PATH": str(contender.directory),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    document = {"name": "bench", **plugin, "cniVersion": "1.0.0"}
    if plugin.get("capabilities") and contender.port is not None:
        port = {"hostPort": contender.port + number, "containerPort": 80, "protocol": "tcp"}
        document["runtimeConfig"] = {"portMappings": [port]}
    if result:
        document["prevResult"] = result
    status, output = _spawn(contender.directory / plugin["type"], environment, json.dumps(document).encode())
    if status != 0:
        raise KernelError(f"cannot measure: {verb} by {plugin['type']} failed: {output.decode()[:300]}")
    return output


def _spawn(program: Path, environment: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    """posix_spawn, because a fork of this process would cost more than some of what is measured."""
    source, feed = os.pipe()
    drain, sink = os.pipe()
    try:
        os.write(feed, stdin)
        os.close(feed)
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, sink, 1)]
        pid = os.posix_spawn(program, [str(program)], environment, file_actions=actions)
        os.close(sink)
        output = b"".join(iter(lambda: os.read(drain, 1 << 16), b""))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output
    finally:
        os.close(source)
        os.close(drain)


def _processor(contender: Contender) -> float:
    """Seconds used so far by what was started and has ended, and by the daemon where there is one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = used.ru_utime + used.ru_stime
    if contender.daemon is None:
        return own
    return own + _nanoseconds(contender.daemon) / 1e9


def _nanoseconds(pid: int) -> int:
    """Processor time of all threads of a process: proc(5), schedstat."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total
