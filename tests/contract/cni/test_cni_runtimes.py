"""Real runtimes attach their containers by the installed executable and the network that the node agent writes: pods
reach each other, the node and, from outside, by a port of the node; and nothing is left of them.
"""

import subprocess

import grpc
import pytest

from tests.contract.cni.runtimes import (
    IMAGE,
    Containerd,
    answering,
    containerd,
    enclosed,
    fetch,
    image,
    podman,
    serve,
)
from tests.netns.cni_node import NODE_ADDRESS, CniNode, cni_node, until

pytestmark = pytest.mark.netns
WEB, CLIENT = "10.244.1.2", "10.244.1.3"
WEB6, CLIENT6 = "fd00:10:244:1::2", "fd00:10:244:1::3"
THE_NODE = (NODE_ADDRESS, 8000, "the node")


@pytest.fixture
def node(tmp_path):
    with cni_node(tmp_path / "node", start=False) as made:
        yield made


@pytest.fixture
def inside(node, tmp_path):
    node.start()
    with enclosed(node, tmp_path) as made:
        yield made


@pytest.fixture
def archive(tmp_path):
    return image(tmp_path / "box.tar")


@pytest.fixture
def runtime(inside, archive):
    with containerd(inside, archive) as made:
        yield made


def test_ctr_run(node: CniNode, runtime: Containerd):
    with runtime.ctr_run("web", *serve("web")) as web, answering(node.netns, *THE_NODE):
        until(lambda: node.leases(), "ctr to attach the container")
        until(lambda: fetch(node.netns, WEB), "the container to serve")
        with runtime.ctr_run(
            "client", "wget", "-qO-", f"http://{WEB}/", f"http://{NODE_ADDRESS}:8000/"
        ) as client:
            output, _ = client.communicate(timeout=30)
        assert (client.returncode, output.split("\n")) == (0, ["web", "the node"])
        assert [str(lease.addresses[0]) for lease in node.leases()] == [WEB], "one is gone, and its address"
        runtime.ctr("task", "kill", "-s", "KILL", "web")
        web.communicate(timeout=30)
    assert node.residue() == {}


def test_cri_as_kubelet_speaks_it(node: CniNode, runtime: Containerd):
    with runtime.cri() as cri, answering(node.netns, *THE_NODE):
        limits = {"ingress_bandwidth": "10M", "egress_bandwidth": "5M"}
        config = cri.config("web", {8080: 80}, **limits)
        web, other = cri.run(config), cri.config("client")
        cri.start(web, config, *serve("web"))
        client = cri.run(other)
        shell = cri.start(client, other, "sleep", "1000")
        assert (cri.addresses(web), cri.addresses(client)) == ([WEB, WEB6], [CLIENT, CLIENT6])
        until(lambda: fetch(node.netns, WEB), "the container to serve")
        asked = (f"http://[{WEB6}]/", f"http://{WEB}/", f"http://{NODE_ADDRESS}:8000/")
        assert cri.execute(shell, "wget", "-qO-", *asked).split("\n") == ["web", "web", "the node"]
        assert cri.execute(shell, "wget", "-qO-", f"http://{NODE_ADDRESS}:8080/") == "web\n"
        assert fetch(node.outside, NODE_ADDRESS, 8080) == "web", "a client outside, by a port of the node"
        assert fetch(node.netns, "127.0.0.1", 8080) == "web"
        link = next(lease.terms.link for lease in node.leases() if str(lease.addresses[0]) == WEB)
        assert "rate 10Mbit" in node.command("tc", "qdisc", "show", "dev", link)
        with pytest.raises(grpc.RpcError, match=r"cannot attach .* port \*:8080/tcp of the node is taken"):
            cri.run(cri.config("late", {8080: 80}))
        assert len(node.leases()) == 2
        cri.stop(web)
        assert fetch(node.outside, NODE_ADDRESS, 8080) == ""
        node.stop()
        cri.stop(client)  # the executable promises it
        node.start()
    assert node.residue() == {}


def test_podman_with_its_cni_backend(node: CniNode, inside, archive):
    run = podman(inside)
    backend = run("info", "--format", "{{.Host.NetworkBackend}}", check=False)
    if backend != "cni":
        version = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True).stdout
        assert int(version.split()[2].partition(".")[0]) >= 5, backend
        pytest.skip(f"expected skip: {version.strip()} has no CNI backend any more")
    run("load", "-i", str(archive))
    wishes = ("--ip", "10.244.1.77", "--mac-address", "06:00:00:00:00:77")
    run.run("web", "-d", "-p", "8080:80", *wishes, IMAGE, *serve("web"))
    with answering(node.netns, *THE_NODE):
        until(lambda: fetch(node.netns, "10.244.1.77"), "the container to serve")
        asked = ("http://10.244.1.77/", f"http://{NODE_ADDRESS}:8000/", f"http://{NODE_ADDRESS}:8080/")
        assert run.run("client", "--rm", IMAGE, "wget", "-qO-", *asked).split("\n") == ["web", "the nodeweb"]
        assert fetch(node.outside, NODE_ADDRESS, 8080) == "web"
    assert "06:00:00:00:00:77" in run("exec", "web", "cat", "/sys/class/net/eth0/address")
    taken = run.run("late", "-d", "-p", "8080:80", IMAGE, "sleep", "1", check=False)
    assert "8080" in taken
    run("rm", "-f", "-t", "0", "web")
    run("rm", "-f", "-i", "late")
    assert node.residue() == {}
