"""What an ADD and a DEL cost, beside the reference plugins: same machine, same minutes, one after the other in turn.

Everything happens in namespaces of our own: one is a netplane node with its daemon, one a node with a bridge. Each
contender does what a runtime asks for by starting the executables; the clock runs from the start of the first
process to the end of the last. Processor time is that of these processes and all they started, and for netplane that
of its daemon as well.
"""

import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni import client
from cni.install import install
from netplane.bench.statistics import Summary, paired, summarize
from netplane.config import Paths
from netplane.errors import ConfigError, KernelError
from netplane.linux.namespaces import entered_netns, new_netns
from netplane.linux.rtnl import rtnl

PLUGINS = Path("/usr/lib/cni")
AT_ONCE = 50
_START_SECONDS = 20.0
_WARMING = 10  # ADDs and DELs of each that do not count

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
class Target:
    """One figure of ``Sample`` and how many times better than the reference netplane's is to be; None: just shown."""

    figure: str
    name: str
    times: float | None = None


# What issue 4 asks for, by pair of contenders.
TARGETS: tuple[tuple[Target, ...], ...] = (
    (
        Target("add", "ADD, ms", 7),
        Target("cpu", "processor ms an ADD", 7),
        Target("delete", "DEL, ms"),
        Target("adds_at_once", "50 ADDs at once, a second", 5),
        Target("dels_at_once", "50 DELs at once, a second", 3),
    ),
    (
        Target("add", "ADD, ms", 40),
        Target("cpu", "processor ms an ADD", 7),
        Target("delete", "DEL, ms"),
        Target("adds_at_once", "50 ADDs at once, a second", 100),
        Target("dels_at_once", "50 DELs at once, a second", 60),
    ),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure of netplane and of its reference, and the median ratio of their pairs with its 95 % interval."""

    network: str
    reference: str
    figure: str
    ours: Summary
    theirs: Summary
    ratio: float
    low: float
    high: float
    target: float | None

    @property
    def verdict(self) -> str:
        """By the interval: `met`, `missed`, or neither."""
        if self.target is None:
            return ""
        if self.low >= self.target:
            return "met"
        return "missed" if self.high < self.target else "not established"


def measure(count: int, bursts: int, say: Callable[[str], None]) -> list[Compared]:
    """``count`` ADDs and DELs of each contender in turn, then ``bursts`` times fifty at once. Root is needed.

    Raises ConfigError where the reference plugins are not installed, KernelError where a plugin fails.
    """
    _need()
    with tempfile.TemporaryDirectory(prefix="np-bench-") as directory, ExitStack() as stack:
        contenders = stack.enter_context(_contenders(Path(directory)))
        samples = [Sample() for _ in contenders]
        pods = [_closing(stack, new_netns()) for _ in range(AT_ONCE)]
        for number in range(_WARMING + count):
            for contender, sample in zip(contenders, samples, strict=True):
                _one(contender, sample if number >= _WARMING else Sample(), number, pods[number % AT_ONCE])
            if number >= _WARMING and (number - _WARMING) % 50 == 49:
                say(f"{number + 1 - _WARMING} of {count} ADDs and DELs each")
        for number in range(bursts):
            for contender, sample in zip(contenders, samples, strict=True):
                _many(contender, sample, pods)
            say(f"{number + 1} of {bursts} times fifty at once")
    pairs = list(zip(contenders, samples, strict=True))
    return [
        _compared(*pairs[2 * index], *pairs[2 * index + 1], target)
        for index, targets in enumerate(TARGETS)
        for target in targets
    ]


def _compared(one: Contender, ours: Sample, other: Contender, theirs: Sample, target: Target) -> Compared:
    left, right = getattr(ours, target.figure), getattr(theirs, target.figure)
    more_is_better = target.figure.endswith("at_once")
    ratio = paired(left, right) if more_is_better else paired(right, left)
    return Compared(
        one.name, other.name, target.name, summarize(left), summarize(right), *ratio, target.times
    )


def _need() -> None:
    missing = [name for name in ("bridge", "host-local", "portmap") if not (PLUGINS / name).exists()]
    missing += [name for name in ("iptables",) if shutil.which(name) is None]
    if missing:
        hint = "./dev setup bench installs containernetworking-plugins and iptables"
        raise ConfigError(f"cannot measure: {', '.join(missing)} is not installed", hint)


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
            # A pair after the other: netplane and what it is compared with.
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
    with entered_netns(netns), subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
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
    nothing: list[Json] = [{} for _ in pods]
    with entered_netns(contender.netns):
        began = time.perf_counter()
        results = _at_once(contender, "ADD", pods, nothing)
        middle = time.perf_counter()
        _at_once(contender, "DEL", pods, results)
        ended = time.perf_counter()
    sample.adds_at_once.append(len(pods) / (middle - began))
    sample.dels_at_once.append(len(pods) / (ended - middle))


@dataclass(slots=True)
class _Running:
    """A plugin that runs for one of many pods, and those of its chain that come after it."""

    number: int
    process: "_Process"
    left: list[Json]


def _at_once(contender: Contender, verb: str, pods: Sequence[int], results: list[Json]) -> list[Json]:
    """One verb for every pod; of each its last result. One thread starts all and collects what they say, because
    what this process does takes processor time from those that are measured.
    """
    chain = list(contender.plugins if verb == "ADD" else reversed(contender.plugins))
    poller, running, results = select.poll(), dict[int, _Running](), list(results)

    def start(number: int, plugins: list[Json]) -> None:
        process = _start(contender, plugins[0], verb, number, pods[number], results[number])
        running[process.drain] = _Running(number, process, plugins[1:])
        poller.register(process.drain, select.POLLIN)

    for number in range(len(pods)):
        start(number, chain)
    while running:
        for drain, _ in poller.poll():
            one = running[drain]
            if one.process.read():
                continue
            poller.unregister(drain)
            del running[drain]
            output = one.process.end()
            if verb == "ADD":
                results[one.number] = json.loads(output)
            if one.left:
                start(one.number, one.left)
    return results


def _add(contender: Contender, number: int, pod: int) -> Json:
    """Every plugin of the chain, as a runtime does it; the last result."""
    result: Json = {}
    for plugin in contender.plugins:
        result = json.loads(_start(contender, plugin, "ADD", number, pod, result).output())
    return result


def _delete(contender: Contender, number: int, pod: int, result: Json) -> None:
    for plugin in reversed(contender.plugins):
        _start(contender, plugin, "DEL", number, pod, result).output()


def _start(contender: Contender, plugin: Json, verb: str, number: int, pod: int, result: Json) -> "_Process":
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
    what = f"{verb} by {plugin['type']}"
    return _Process(what, contender.directory / plugin["type"], environment, json.dumps(document).encode())


class _Process:
    """A plugin that runs. posix_spawn, because a fork of this process would cost more than some of what is measured."""

    def __init__(self, what: str, program: Path, environment: Mapping[str, str], stdin: bytes) -> None:
        self._what, self._said = what, b""
        source, feed = os.pipe()
        self.drain, sink = os.pipe()
        os.write(feed, stdin)
        os.close(feed)
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, sink, 1)]
        self._pid = os.posix_spawn(program, [str(program)], environment, file_actions=actions)
        os.close(source)
        os.close(sink)

    def read(self) -> bool:
        """More of what it says; False at the end of that."""
        chunk = os.read(self.drain, 1 << 16)
        self._said += chunk
        return bool(chunk)

    def end(self) -> bytes:
        """Wait for it. Raises KernelError where it failed."""
        os.close(self.drain)
        if os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]) != 0:
            raise KernelError(f"cannot measure: {self._what} failed: {self._said.decode()[:300]}")
        return self._said

    def output(self) -> bytes:
        """All it says, once it has ended."""
        while self.read():
            pass
        return self.end()


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
