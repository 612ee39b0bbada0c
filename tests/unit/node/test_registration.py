"""A Node is one living machine's; our configuration never goes over another network's."""

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from netplane import config
from netplane.errors import ConfigError
from netplane.kube import errors
from netplane.kube.cache import Cache
from netplane.kube.errors import Cause
from netplane.kube.objects import rfc3339_micro
from netplane.kube.resources import LEASES, NODES
from netplane.node import network
from netplane.node.agent import Settings, only_one
from netplane.node.node_object import NodeObject
from netplane.node.registration import Machine, closed_condition, machine_id
from tests.unit.node_fakes import FakeApi


def machine(ident="id-1", address="192.168.77.11", name="n1"):
    return Machine(name, [ip_address(address)], ident, "boot", 2, 2**30, 110, 10250, "process", {"zone": "a"})


def node_object(api, who, nodes=None, problem="no network yet"):
    said = [problem, ""]
    made = NodeObject(
        api, who, Cache(NODES) if nodes is None else nodes, lambda: said[0], lambda: said[1], lambda: ""
    )
    made.said = said
    return made


def ready(node):
    return next(c for c in node["status"]["conditions"] if c["type"] == "Ready")


async def test_registered_not_ready_then_ready():
    api = FakeApi()
    nodes = Cache(NODES)
    me = node_object(api, machine(), nodes)
    await me.register(40)
    node = await api.get(NODES, "n1")
    assert node["metadata"]["labels"] == {
        "zone": "a",
        "kubernetes.io/hostname": "n1",
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    assert ready(node)["status"] == "False"
    assert ready(node)["message"] == "NetworkPluginNotReady: no network yet"
    assert node["status"]["addresses"][0] == {"type": "InternalIP", "address": "192.168.77.11"}
    assert node["status"]["allocatable"]["pods"] == "110"
    lease = await api.get(LEASES, "n1", "kube-node-lease")
    assert lease["spec"]["leaseDurationSeconds"] == 40
    me.said[0] = ""
    nodes.replace([node], "1")
    await me._keep()
    assert ready(await api.get(NODES, "n1"))["status"] == "True"
    before = api.revision
    nodes.replace([await api.get(NODES, "n1")], "2")
    await me._keep()
    assert api.revision == before  # nothing new, nothing written


async def test_a_node_that_takes_no_further_pod_stays_ready_and_says_so():
    api, nodes = FakeApi(), Cache(NODES)
    me = node_object(api, machine(), nodes, problem="")
    await me.register(40)

    async def reported(closed):
        me.said[1] = closed
        nodes.replace([await api.get(NODES, "n1")], str(api.revision))
        await me._keep()
        node = await api.get(NODES, "n1")
        assert ready(node)["status"] == "True"
        found = [c for c in node["status"]["conditions"] if c["type"] == "NetworkUnavailable"]
        return [(c["status"], c["message"]) for c in found]

    assert await reported("") == []
    assert await reported("every address is in use") == [("True", "every address is in use")]
    assert await reported("") == [("False", "the network takes pods")]


def test_what_others_say_of_the_network_is_left_alone():
    others = [{"type": "NetworkUnavailable", "status": "True", "reason": "NoPodCIDR"}]
    assert closed_condition(others, "", "now") == others


async def age_lease(api, seconds):
    stamp = rfc3339_micro(datetime.now(UTC) - timedelta(seconds=seconds))
    await api.patch(LEASES, "n1", {"spec": {"renewTime": stamp}}, namespace="kube-node-lease")


async def test_a_second_machine_of_the_same_name_is_refused_while_the_first_lives():
    api = FakeApi()
    await node_object(api, machine()).register(40)
    second = node_object(api, machine("id-2", "192.168.77.12"))
    with pytest.raises(
        ConfigError, match=r"cannot register node n1: .*address 192\.168\.77\.11, machine id id-1"
    ):
        await second.register(40)
    assert (await api.get(NODES, "n1"))["status"]["nodeInfo"]["machineID"] == "id-1"
    await age_lease(api, 41)
    await second.register(40)
    assert (await api.get(NODES, "n1"))["status"]["nodeInfo"]["machineID"] == "id-2"


async def test_the_same_machine_comes_back():
    api = FakeApi()
    await node_object(api, machine()).register(40)
    await node_object(api, machine()).register(40)


async def test_a_machine_whose_node_was_taken_over_stops():
    api = FakeApi()
    nodes = Cache(NODES)
    first = node_object(api, machine(), nodes)
    await first.register(40)
    await age_lease(api, 41)
    await node_object(api, machine("id-2", "192.168.77.12")).register(40)
    nodes.replace([await api.get(NODES, "n1")], "9")
    with pytest.raises(ConfigError, match="machine id-2 has registered under that name"):
        await first._keep()


async def test_an_address_in_use_is_the_apis_refusal_and_final():
    class Refuses(FakeApi):
        async def create(self, resource, obj, namespace=None, *, subresource=""):
            text = "InternalIP 192.168.77.11 is in use by node n0, so node n1 cannot have it"
            raise errors.invalid(NODES, "n1", [Cause("status.addresses", text)])

    with pytest.raises(ConfigError, match=r"cannot register node n1: .*in use by node n0"):
        await node_object(Refuses(), machine()).register(40)


async def test_a_deleted_node_is_registered_again():
    api = FakeApi()
    nodes = Cache(NODES)
    me = node_object(api, machine(), nodes)
    await me.register(40)
    await api.delete(NODES, "n1")
    nodes.replace([], "5")
    await me._keep()
    assert await api.get(NODES, "n1")


def test_the_machine_id_is_the_roots_own(tmp_path):
    first = machine_id(tmp_path / "a")
    assert machine_id(tmp_path / "a") == first
    assert machine_id(tmp_path / "b") != first


OURS = network.conflist([ip_network("10.244.1.0/24")], [ip_network("10.244.0.0/16")])


def test_our_configuration_is_written_once(tmp_path):
    written = network.write(tmp_path / "net.d", OURS, held=False)
    assert written.notice == ""
    stat = written.path.stat()
    assert json.loads(written.path.read_text()) == OURS
    network.write(tmp_path / "net.d", OURS, held=True)
    assert written.path.stat().st_ino == stat.st_ino
    assert [p.name for p in (tmp_path / "net.d").iterdir()] == ["10-netplane.conflist"]


def test_another_networks_file_of_our_name_is_left_alone(tmp_path):
    theirs = tmp_path / "10-netplane.conflist"
    theirs.write_text('{"cniVersion":"1.0.0","name":"flannel","plugins":[{"type":"flannel"}]}')
    before = theirs.read_text()
    written = network.write(tmp_path, OURS, held=False)
    assert "is of network 'flannel', not ours" in written.notice
    assert theirs.read_text() == before


def test_a_network_that_comes_first_is_said(tmp_path):
    (tmp_path / "05-calico.conflist").write_text("{}")
    written = network.write(tmp_path, OURS, held=False)
    assert "05-calico.conflist comes before 10-netplane.conflist" in written.notice


def test_pod_cidrs_do_not_change_under_living_pods(tmp_path):
    network.write(tmp_path, OURS, held=False)
    other = network.conflist([ip_network("10.244.9.0/24")], [ip_network("10.244.0.0/16")])
    written = network.write(tmp_path, other, held=True)
    assert "pod CIDRs stay" in written.notice
    assert json.loads(written.path.read_text()) == OURS
    assert network.write(tmp_path, other, held=False).notice == ""
    assert json.loads(written.path.read_text()) == other


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"nodeName": "N1"}, "nodeName 'N1'"),
        ({"nodeIP": "10.0.0.999"}, "nodeIP"),
        ({"leaseRenew": 50}, "leaseRenew"),
        ({"restartBase": 0}, "restartBase"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_name_the_wrong_field(document, text):
    with pytest.raises(ConfigError, match=text):
        config.parse(Settings, document, "node.yaml")


def test_one_agent_a_root(tmp_path):
    lock = tmp_path / "node/lock"
    with only_one(lock), pytest.raises(ConfigError, match=r"another one holds .*node/lock"), only_one(lock):
        pass
    with only_one(lock):
        pass
