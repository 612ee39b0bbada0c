"""What is wrong with a machine is found on the machine: its kernel, its files, its certificates."""

import datetime
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from netplane.config import Paths
from netplane.debug import doctor, silent
from netplane.debug.hops import State
from netplane.kube import kubeconfig
from netplane.kube.resources import ENDPOINTSLICES, NODES, SERVICES
from netplane.linux import nft, sysctl
from netplane.linux.namespaces import entered_netns, new_netns

if TYPE_CHECKING:
    from tests.netns.debug.conftest import World
else:
    World = Any

LOOPBACK = """
import socket, time
with socket.create_server(("127.0.0.1", 7070)):
    print("ready", flush=True)
    time.sleep(600)
"""
pytestmark = pytest.mark.netns


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Paths]:
    """A healthy node's namespace and files; the test runs inside."""
    paths = Paths(tmp_path)
    paths.etc.mkdir(parents=True)
    write_kubeconfig(paths, days=300)
    for path in (paths.cni_conf_dir / doctor.CONFLIST, paths.cni_bin_dir / "netplane"):
        path.parent.mkdir(parents=True)
        path.touch()
    netns = new_netns()
    with entered_netns(netns):
        sysctl.write("net.ipv4.ip_forward", "1")
        yield paths
    os.close(netns)


def write_kubeconfig(paths: Paths, days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "system:node:n1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(400))
        .not_valid_after(now + datetime.timedelta(days, 3600))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = made.public_bytes(serialization.Encoding.PEM)
    text = kubeconfig.render("https://192.0.2.1:6443", b"", certificate, pem, "node")
    (paths.etc / "node.kubeconfig").write_text(text)


def broken(paths: Paths) -> dict[str, str]:
    return {one.subject: one.text for one in doctor.machine(paths) if one.state is not State.OK}


def test_a_healthy_node_has_nothing(node: Paths) -> None:
    assert broken(node) == {}
    assert {one.subject for one in doctor.machine(node)} == {
        "certificates",
        "kernel",
        "other proxies",
        "network",
    }


def test_a_node_that_does_not_forward(node: Paths) -> None:
    sysctl.write("net.ipv4.ip_forward", "0")
    assert broken(node) == {"kernel": "net.ipv4.ip_forward=0: no pod's packet goes on"}


@pytest.mark.parametrize(("family", "table", "chain"), doctor.OTHER_PROXIES)
def test_another_proxy_on_the_node(node: Paths, family: str, table: str, chain: str) -> None:
    nft.apply(f"table {family} {table} {{ chain {chain} {{ counter; }}\n}}")
    assert broken(node) == {"other proxies": f"another proxy's rules are here: nft {family} {table} {chain}"}


def test_another_network_before_ours_and_a_plugin_that_is_gone(node: Paths) -> None:
    (node.cni_bin_dir / "netplane").unlink()
    assert "plugin" in broken(node)["network"]
    (node.cni_conf_dir / "05-other.conf").touch()
    assert "runtimes use 05-other.conf, which comes before" in broken(node)["network"]
    for path in node.cni_conf_dir.iterdir():
        path.unlink()
    assert "there is no network in" in broken(node)["network"]


def test_a_certificate_that_has_expired_or_soon_will(node: Paths) -> None:
    write_kubeconfig(node, days=-2)
    assert broken(node)["node.kubeconfig"].startswith("its certificate expired on ")
    write_kubeconfig(node, days=3)
    assert broken(node) == {}
    assert any(one.text.startswith("its certificate expires on") for one in doctor.machine(node))
    (node.etc / "node.kubeconfig").write_text("{")
    assert "line 1, column 2" in broken(node)["node.kubeconfig"]


def test_no_dns(node: Paths) -> None:
    (found,) = doctor.names()
    assert found.state is State.BROKEN
    assert found.text == "cannot ask for kubernetes.default.svc.cluster.local: Network is unreachable"


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (8080, None),
        (9090, "nothing listens at 10.244.1.7:9090"),
        (7070, "it listens on 127.0.0.1:7070 only, and not on 10.244.1.7"),
    ],
)
def test_an_endpoint_of_this_node_that_does_not_listen(world: World, port: int, text: str | None) -> None:
    """Pod a is here, and pod b on another node."""
    world.start("a", [sys.executable, "-c", LOOPBACK])
    for piece in world.objects[ENDPOINTSLICES.plural]:
        piece["ports"][0]["port"] = port
    services, slices, nodes = (world.objects[one.plural] for one in (SERVICES, ENDPOINTSLICES, NODES))
    with entered_netns(world.netns["n1"]):
        found = list(doctor.listeners(silent.locals_of(services, slices, nodes[0]), "n1", world.root))
    assert [one.text for one in found if one.state is not State.OK] == ([text] if text else [])


def test_a_route_to_another_nodes_pods_that_is_gone(world: World) -> None:
    nodes = world.objects[NODES.plural]
    for missing in (False, True):
        if missing:
            world.route("n1", "del", dst="10.244.2.0/24")
        with entered_netns(world.netns["n1"]):
            found = {one.subject: one.state for one in doctor.routes(nodes, "n1")}
        assert found.get("route to n2") is (State.BROKEN if missing else None)
