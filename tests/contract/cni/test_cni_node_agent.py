"""The two sides that never import one another: the node agent's client and configuration, and this plugin."""

import asyncio
from ipaddress import ip_network

import pytest

from netplane.config import Paths
from netplane.node.cni_client import Attachment, CniClient, CniError, addresses
from netplane.node.cni_config import parse
from netplane.node.network import conflist
from tests.netns.cni_node import cni_node, netns_path, pods, run_in

pytestmark = pytest.mark.netns


@pytest.fixture
def node(tmp_path):
    with cni_node(tmp_path) as made:
        yield made


async def test_the_agents_configuration_from_status_to_garbage(node):
    network = parse(conflist([ip_network("10.244.5.0/24")], [ip_network("10.244.0.0/16")]), "conflist")
    client = CniClient([Paths(node.root).cni_bin_dir], node.root / "cache")
    await client.status(network)
    with pods(2) as (one, two):
        args = {"IgnoreUnknown": "1", "K8S_POD_NAME": "a", "K8S_POD_NAMESPACE": "default"}
        first = await client.add(network, Attachment("one", netns_path(one), args=args))
        second = await client.add(network, Attachment("two", netns_path(two), args=args))
        assert (addresses(first), addresses(second)) == (["10.244.5.2"], ["10.244.5.3"])
        run_in(one, "ping", "-c1", "-W1", "10.244.5.3")
        kept, dropped = sorted(client.attachments(), key=lambda cached: cached.attachment.container_id)
        await client.check(kept)
        client._file(network.name, dropped.attachment).unlink()  # as if its agent had died before noting it
        await client.collect_garbage(network)
        with pytest.raises(CniError, match="not attached"):
            await client.check(dropped)
        await client.check(kept)
        await client.delete(dropped)
        await client.delete(kept, netns="")
    assert await asyncio.to_thread(node.residue) == {}  # pyroute2 and a running loop do not share a thread


async def test_an_exhausted_pod_cidr_and_a_daemon_that_is_down_are_named(node):
    network = parse(conflist([ip_network("10.244.5.0/30")], []), "conflist")
    client = CniClient([Paths(node.root).cni_bin_dir], node.root / "cache")
    with pods(2) as (one, two):
        await client.add(network, Attachment("one", netns_path(one)))
        with pytest.raises(CniError, match=r"10\.244\.5\.0/30") as caught:
            await client.add(network, Attachment("two", netns_path(two)))
        assert caught.value.code == 101
        assert len(node.leases()) == 1
        node.stop()
        with pytest.raises(CniError, match=r"cni\.sock") as caught:
            await client.status(network)
        assert caught.value.code == 50
