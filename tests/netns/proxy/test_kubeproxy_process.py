"""The proxy in kube-proxy's place: the daemon by its command, with kube-proxy's two files, beside its networks."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netplane.linux.rtnl import rtnl
from proxy import routes
from tests import flows
from tests.netns.proxy.daemon import API_PORT, Supervisor, eventually, visit

pytestmark = pytest.mark.netns

CONFIGURATION = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection: {kubeconfig: /nowhere}
clusterCIDR: 10.244.0.1/16
hostnameOverride: N1
mode: iptables
"""
KUBECONFIG = f"""
current-context: c
contexts: [{{name: c, context: {{cluster: k, user: u}}}}]
clusters: [{{name: k, cluster: {{server: 'http://{flows.OUTSIDE_ADDRESS}:{API_PORT}'}}}}]
users: [{{name: u, user: {{tokenFile: token}}}}]
"""
NEIGHBOUR, OWN = "10.100.0.9", "10.100.0.5"


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "config.conf").write_text(CONFIGURATION)
    (tmp_path / "kubeconfig.conf").write_text(KUBECONFIG)
    (tmp_path / "token").write_text("t\n")
    files = ("--config", f"{tmp_path}/config.conf", "--kubeconfig", f"{tmp_path}/kubeconfig.conf")
    command = (sys.executable, "-m", "netplane", "proxy", "--root", f"{tmp_path}/root", *files)
    return (*command, "--mode", "userspace")  # auto would take hold of this machine's cgroups


@pytest.fixture
def neighbours(world: Any) -> Iterator[None]:
    """A second network on the wire, within what is the Service network where nothing else is said."""
    with rtnl(world.netns["n1"]) as n1, rtnl(world.netns["outside"]) as outside:
        for ipr, address in ((n1, OWN), (outside, NEIGHBOUR)):
            ipr.addr("add", index=ipr.link_lookup(ifname="eth0")[0], address=address, prefixlen=24)
        yield
        for ipr, address in ((n1, OWN), (outside, NEIGHBOUR)):
            ipr.addr("del", index=ipr.link_lookup(ifname="eth0")[0], address=address, prefixlen=24)


def supervised(world: Any, tmp_path: Path, *command: str) -> Supervisor:
    (tmp_path / "root").mkdir()
    return Supervisor(world, tmp_path / "root", command=command)


def test_kube_proxys_two_files_are_all_it_takes(world, api, start, tmp_path, command) -> None:
    start()  # so that every trace in n1 is removed at the end
    running = supervised(world, tmp_path, *command, "--service-cidrs", "10.96.0.0/16")
    try:
        running.start()
        assert eventually(lambda: visit(world)) in ("web1", "web2")
        assert running.ask("status")["mode"] == "userspace"
        assert [str(network) for network in world.run("n1", routes.routed)] == ["10.96.0.0/16"]
    finally:
        running.close()
    said = running.log.read_text()
    for warning in ("mode: iptables is served by mode auto", "bindAddress: has no effect"):
        assert f"{tmp_path}/config.conf: {warning}" in said


def test_a_service_network_that_the_node_is_connected_to_is_refused(
    world, api, start, tmp_path, command, neighbours
) -> None:
    start()
    untouched = world.run("n1", nft_rules)
    refused = supervised(world, tmp_path, *command)
    try:
        refused.start()
        assert refused.process.wait(20) != 0
        assert world.run("n1", routes.routed) == []
        assert world.run("n1", nft_rules) == untouched
    finally:
        refused.close()
    (line,) = re.findall("cannot lead .*", refused.log.read_text())
    assert line == (
        f"cannot lead Service network 10.96.0.0/12 to this node: it overlaps {OWN}/24, which this node has. Give "
        "the cluster's Service networks (serviceCidrs, --service-cidrs), or none: then each Service's address is led "
        "here by itself"
    )


def test_without_a_service_network_neighbours_within_the_default_one_are_left_alone(
    world, api, start, tmp_path, command, neighbours
) -> None:
    start()
    running = supervised(world, tmp_path, *command, "--service-cidrs", "")
    try:
        running.start()
        assert eventually(lambda: visit(world)) in ("web1", "web2")
        assert "10.96.0.10/32" in map(str, world.run("n1", routes.routed))
        with (
            world.connect("outside", OWN, flows.PORT),
            world.connect("n1", OWN, flows.PORT),
        ):
            pass  # a server of the node itself
        with pytest.raises(ConnectionRefusedError):
            world.connect("client", "10.96.0.10", flows.PORT)
        running.end(signal.SIGTERM)
    finally:
        running.close()


def nft_rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
