"""The proxy as a process in the modes of the kernel: killed in the midst of everything, and asked from outside."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from netplane.linux import nft
from tests import flows
from tests.bpf_place import BpfPlace
from tests.netns.proxy.daemon import Supervisor, eventually
from tests.netns.proxy.flows import HERE, destination, visit
from tests.netns.proxy.test_mode_switch import Steady, Stream

pytestmark = pytest.mark.netns


@pytest.fixture(params=[flows.NFTABLES, flows.EBPF])
def proxy(request, world, api, place: BpfPlace, start) -> Iterator[Supervisor]:
    start()  # so that every trace in n1 is removed at the end
    for name in ("all", "u-all"):
        api.put("services", next(s for s in flows.SERVICES if s["metadata"]["name"] == name))
        api.put("endpointslices", next(s for s in flows.SLICES if s["metadata"]["name"] == f"{name}-1"))
    world.makers.update(dict.fromkeys(HERE, place.open) if request.param == flows.EBPF else {})
    made = Supervisor(world, place.paths.root, settings=f"mode: {request.param}")
    (
        made.root / "etc/netplane/node.kubeconfig"
    ).touch()  # as on a node: `netplane status` asks for the proxy there
    made.start()
    with living_in(world, place, "client"):
        yield made
    made.close()


@contextmanager
def living_in(world, place: BpfPlace, pod: str) -> Iterator[None]:
    """A process of the node in a pod, as every pod has one: by it the pod's sockets are found."""
    netns = world.netns[pod]
    join = f"echo 0 > {place.cgroup}/cgroup.procs; exec nsenter --net=/proc/self/fd/{netns} sleep 300"
    process = subprocess.Popen(["/bin/sh", "-ec", join], pass_fds=[netns])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def netplane(world, proxy: Supervisor, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netplane", *words, "--root", str(proxy.root)]
    return world.run("n1", lambda: subprocess.run(command, capture_output=True, text=True, timeout=30))


def rows(world, proxy: Supervisor, what: str) -> list[dict[str, Any]]:
    done = netplane(world, proxy, what, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def look(world, proxy: Supervisor, stream: Stream) -> None:
    """What a person sees of it, whether or not a process is there to say it."""
    found = {row["service"]: row for row in rows(world, proxy, "services")}
    assert {"default/web:80", "default/all:80", "default/u-all:80"} <= found.keys()
    ends = [row["endpoint"] for row in rows(world, proxy, "endpoints") if row["service"] == "default/web:80"]
    assert ends == [f"{flows.ADDRESSES[pod]}:{flows.PORT}" for pod in ("web1", "web2")]
    client = "{}:{}".format(*stream.sock.getsockname())
    called = [row for row in rows(world, proxy, "flows") if row["frontend"] == "10.96.0.10:80/tcp"]
    (mine,) = [row for row in called if row["client"] == client]
    assert mine["service"] == "default/web:80"
    assert mine["endpoint"] in ends


def test_kill_9_is_noticed_by_nobody(world, api, proxy: Supervisor) -> None:
    eventually(lambda: proxy.ask("status")["frontends"] >= 6)
    stream = Stream(world, "client", *destination("web"))
    steady = Steady(world, "client", "n1")
    try:
        look(world, proxy, stream)
        for _ in range(2):
            proxy.end(signal.SIGKILL)
            done = steady.count
            look(world, proxy, stream)
            eventually(lambda done=done: steady.count > done + 5)
            stream.exchange()
            proxy.start()
            eventually(lambda: proxy.ask("status")["frontends"] >= 6)
        api.put("endpointslices", flows.endpoint_slice("web", "web2"))
        eventually(lambda: {visit(world, "client", *destination("web"))[0] for _ in range(8)} == {"web2"})
        stream.exchange()
    finally:
        steady.stop()
        stream.close()
    assert steady.failures == []


def test_the_status_says_the_mode_and_counts_what_the_kernel_has(world, proxy: Supervisor) -> None:
    """Not what was told: somebody may have taken it away; and with no proxy running it is still there."""

    def said() -> dict[str, Any]:
        rows = json.loads(netplane(world, proxy, "status", "-o", "json").stdout)
        return next(row for row in rows if row["part"] == "proxy")

    eventually(lambda: proxy.ask("status")["frontends"] == 8)
    found = said()
    assert found["state"] == "works"
    assert found["detail"].startswith(proxy.ask("status")["mode"])
    assert ", 8 frontends, " in found["detail"]
    world.run("n1", nft.apply, "flush chain inet netplane_services prerouting")
    found = said()
    assert found["state"] == "broken"
    assert "the kernel has 0 of 8 frontends: `netplane sync` mends that now" in found["detail"]
    proxy.ask("sync")
    assert proxy.ask("status")["problems"] == []
    proxy.end(signal.SIGKILL)
    found = said()
    assert found["state"] == "broken"
    assert found["detail"].endswith("; the kernel goes on forwarding 8 frontends")
