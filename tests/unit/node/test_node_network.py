"""Whether the node can take pods: what a plugin's STATUS means for the pods that are here and for those to come."""

import json

import pytest

from netplane.config import Paths
from netplane.node.cni_client import Attachment, CniClient
from netplane.node.network import NodeNetwork
from netplane.node.pod_context import NetworkNotReady
from tests.unit.node_fakes import GIVES_ADDRESS, write_plugin

SAYS = """
if verb == "STATUS":
    print(json.dumps({{"code": {code}, "msg": "every address is in use"}}))
    sys.exit(1)
"""


@pytest.fixture
def paths(tmp_path):
    paths = Paths(tmp_path)
    paths.cni_conf_dir.mkdir(parents=True)
    document = {"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "one"}]}
    (paths.cni_conf_dir / "10-net.conflist").write_text(json.dumps(document))
    write_plugin(paths.cni_bin_dir, "one")
    return paths


@pytest.fixture
def client(paths):
    return CniClient([paths.cni_bin_dir], paths.state / "cni")


def status_says(paths, code):
    write_plugin(paths.cni_bin_dir, "one", SAYS.format(code=code) + GIVES_ADDRESS)


async def test_a_full_network_keeps_its_pods_and_its_node_ready(paths, client):
    network = NodeNetwork(paths, client)
    await network.check()
    assert (network.problem, network.closed) == ("", "")
    await client.add(network.current(), Attachment("aa11", "/proc/1/ns/net"))
    status_says(paths, 50)
    await network.check()
    assert network.problem == ""
    assert "every address is in use" in network.closed
    assert network.current().name == "net"  # a pod that is here asks, and is told by the plugin itself
    write_plugin(paths.cni_bin_dir, "one")
    await network.check()
    assert network.closed == ""


@pytest.mark.parametrize("code", [50, 51, 7])
async def test_a_network_that_serves_nobody_makes_the_node_unready(paths, client, code):
    network = NodeNetwork(paths, client)
    status_says(paths, code)
    await network.check()
    assert "every address is in use" in network.problem
    assert network.closed == ""
    with pytest.raises(NetworkNotReady, match="every address is in use"):
        network.current()


async def test_limited_connectivity_is_a_problem_for_the_pods_that_are_here(paths, client):
    network = NodeNetwork(paths, client)
    await network.check()
    await client.add(network.current(), Attachment("aa11", "/proc/1/ns/net"))
    status_says(paths, 51)
    await network.check()
    assert network.problem != ""
