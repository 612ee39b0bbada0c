"""Two nodes, a client and two echo pods, and the proxy on the client's node: all in namespaces of their own."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from netplane.debug.places import Spawn
from netplane.kube.client import ObjectList
from netplane.kube.resources import ENDPOINTSLICES, NODES, PODS, SERVICES, Resource
from netplane.linux import sysctl
from netplane.linux.namespaces import entered_netns, new_netns
from netplane.linux.rtnl import rtnl

NODE_ADDRESSES = {"n1": "192.168.77.11", "n2": "192.168.77.12"}
PODS_AT = {"client": ("n1", "10.244.1.3"), "a": ("n1", "10.244.1.7"), "b": ("n2", "10.244.2.9")}
SERVICE_IP = "10.96.0.20"
GATEWAY = "169.254.1.1"
HOST_MAC, POD_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
PROXY = """
import asyncio, json, sys
from pathlib import Path
import uvloop
from netplane.config import CLUSTER_CIDRS, SERVICE_CIDRS, Paths
from proxy.codec import encode_targets
from proxy.doors import tool_socket
from proxy.snapshot import build, node_facts
from proxy.userspace.datapath import UserspaceDataPath

async def main():
    world = json.loads(sys.argv[1])
    node = node_facts(world["nodes"][0], CLUSTER_CIDRS, SERVICE_CIDRS)
    snapshot = build(world["services"], world["endpointslices"], node)
    datapath = UserspaceDataPath()
    await datapath.sync(snapshot)
    answers = {"targets": lambda: encode_targets(snapshot.targets)}
    async with tool_socket(Paths(Path(sys.argv[2])).proxy_socket, answers):
        print("ready", flush=True)
        await asyncio.Event().wait()

uvloop.run(main())
"""


def pod(name: str) -> dict[str, Any]:
    node, address = PODS_AT[name]
    status = {"podIP": address, "podIPs": [{"ip": address}]}
    return {"metadata": {"namespace": "default", "name": name}, "spec": {"nodeName": node}, "status": status}


def node(name: str) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": NODE_ADDRESSES[name]}]
    number = name.removeprefix("n")
    return {
        "metadata": {"name": name},
        "spec": {"podCIDRs": [f"10.244.{number}.0/24"]},
        "status": {"addresses": addresses},
    }


def service(**spec: Any) -> dict[str, Any]:
    port = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30080}
    body = {"type": "NodePort", "clusterIP": SERVICE_IP, "clusterIPs": [SERVICE_IP], "ports": [port], **spec}
    return {"metadata": {"namespace": "default", "name": "hello", "resourceVersion": "12"}, "spec": body}


def endpoint_slice(*names: str) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "hello"}
    return {
        "metadata": {"namespace": "default", "name": "hello-1", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [PODS_AT[name][1]], "nodeName": PODS_AT[name][0], "conditions": {"ready": True}}
            for name in names
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


@dataclass
class World:
    """The namespaces, the processes in them, and the API's objects. ``list`` is the client's."""

    root: Path
    stack: ExitStack
    netns: dict[str, int] = field(default_factory=dict)
    objects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    blind: set[str] = field(default_factory=set)

    async def list(self, resource: Resource) -> ObjectList:
        """What netplane.kube.client.Client.list answers."""
        return ObjectList(self.objects[resource.plural], "99")

    def spawn(self) -> Spawn:
        """Runs argv in a node's namespace; None for the nodes in ``blind``."""

        async def spawn(name: str, argv: Sequence[str]) -> asyncio.subprocess.Process | None:
            if name in self.blind or name not in self.netns:
                return None
            enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.netns[name]}"]
            environment = {**os.environ, "NETPLANE_ROOT": str(self.root / name)}
            pipe = asyncio.subprocess.PIPE
            return await asyncio.create_subprocess_exec(
                *enter, *argv, stdin=pipe, stdout=pipe, env=environment
            )

        return spawn

    def start(self, name: str, argv: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """A process in a namespace that has said its first line; it ends with the test."""
        with entered_netns(self.netns[name]):
            process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=subprocess.PIPE)
        self.stack.callback(end, process)
        assert process.stdout is not None
        assert process.stdout.readline() != b""
        return process

    def start_proxy(self) -> subprocess.Popen[bytes]:
        """The userspace data path on n1, for the objects as they are now."""
        return self.start(
            "n1", [sys.executable, "-c", PROXY, json.dumps(self.objects), str(self.root / "n1")]
        )

    def route(self, name: str, action: str, **options: Any) -> None:
        """Change one route of a namespace."""
        with rtnl(self.netns[name]) as ipr:
            ipr.route(action, **options)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _up(netns: int, link: str, **options: Any) -> int:
    with rtnl(netns) as ipr:
        (index,) = ipr.link_lookup(ifname=link)
        ipr.link("set", index=index, state="up", **options)
        return int(index)


def _add_node(world: World, name: str) -> None:
    wire, netns = world.netns["wire"], world.netns[name]
    with rtnl(wire) as ipr:
        ipr.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_fd": netns})
        _up(wire, name, master=ipr.link_lookup(ifname="br0")[0])
    index = _up(netns, "eth0")
    with rtnl(netns) as ipr:
        ipr.addr("add", index=index, address=NODE_ADDRESSES[name], prefixlen=24)
    with entered_netns(netns):
        sysctl.write("net.ipv4.ip_forward", "1")


def _add_pod(world: World, name: str) -> None:
    at, address = PODS_AT[name]
    host, inside = world.netns[at], world.netns[name]
    with rtnl(host) as ipr:
        ipr.link("add", ifname=f"np{name}", kind="veth", peer={"ifname": "eth0", "net_ns_fd": inside})
    outer, inner = _up(host, f"np{name}", address=HOST_MAC), _up(inside, "eth0", address=POD_MAC)
    with rtnl(host) as ipr:
        ipr.route("add", dst=f"{address}/32", oif=outer, scope=253, proto=97)
        ipr.neigh("add", dst=address, lladdr=POD_MAC, ifindex=outer, state=0x80)
    with rtnl(inside) as ipr:
        ipr.addr("add", index=inner, address=address, prefixlen=32)
        ipr.neigh("add", dst=GATEWAY, lladdr=HOST_MAC, ifindex=inner, state=0x80)
        ipr.route("add", dst=f"{GATEWAY}/32", oif=inner, scope=253)
        ipr.route("add", dst="0.0.0.0/0", gateway=GATEWAY, oif=inner)


def _add_stranger(world: World, pod: str) -> None:
    """Another cluster of this machine: its namespace has a pod's address, and comes before the pod's in every list."""
    with rtnl(world.netns["stranger"]) as ipr:
        ipr.addr("add", index=1, address=PODS_AT[pod][1], prefixlen=32)
    world.start("stranger", ["sh", "-c", "echo ready; exec sleep 600"])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path, stack)
        for name in ("wire", "stranger", *NODE_ADDRESSES, *PODS_AT):
            made.netns[name] = new_netns()
            stack.callback(os.close, made.netns[name])
            _up(made.netns[name], "lo")
        with rtnl(made.netns["wire"]) as ipr:
            ipr.link("add", ifname="br0", kind="bridge")
        _up(made.netns["wire"], "br0")
        for name in NODE_ADDRESSES:
            _add_node(made, name)
        for name in PODS_AT:
            _add_pod(made, name)
        made.route("n1", "add", dst="10.244.2.0/24", gateway=NODE_ADDRESSES["n2"], proto=98)
        made.route("n2", "add", dst="10.244.1.0/24", gateway=NODE_ADDRESSES["n1"], proto=98)
        made.objects = {
            SERVICES.plural: [service()],
            ENDPOINTSLICES.plural: [endpoint_slice("a", "b")],
            PODS.plural: [pod(name) for name in PODS_AT],
            NODES.plural: [node(name) for name in NODE_ADDRESSES],
        }
        _add_stranger(made, "client")
        made.start("client", ["sh", "-c", "echo ready; exec sleep 600"])
        for name in ("a", "b"):
            identity = {
                "NETPLANE_POD": name,
                "NETPLANE_NAMESPACE": "default",
                "NETPLANE_NODE": PODS_AT[name][0],
            }
            made.start(name, [sys.executable, "-m", "netplane.node.images.echo"], **identity)
        yield made
