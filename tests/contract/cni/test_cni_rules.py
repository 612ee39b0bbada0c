"""The specification's finer rules, by running the installed executable: what ``test_cni_conformance`` leaves open.

``test_cni_checklist`` says which rule is shown by which test.
"""

import json
import os
import subprocess

import pytest

from cni import client
from cni.leases import store_path
from netplane.config import Paths
from tests.contract.cni.test_cni_conformance import VERSIONS, error
from tests.netns.cni_node import cni_node, netns_path, network, pods, run_in

pytestmark = pytest.mark.netns
DUAL = {"ranges": [["10.244.1.0/24"], ["fd00:10:244:1::/64"]]}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    with cni_node(tmp_path_factory.mktemp("node")) as made:
        yield made


# --- versions and the environment -------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_version_answers_in_every_version(node, version):
    answer = node.run({"CNI_COMMAND": "VERSION"}, json.dumps({"cniVersion": version}).encode())
    assert answer.json == {"cniVersion": version, "supportedVersions": list(VERSIONS)}


@pytest.mark.parametrize("version", VERSIONS[:-1])
@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_gc_and_status_are_of_1_1_0(node, command, version):
    error(node.call(command, cniVersion=version), 1, command, version)


def test_without_a_version_it_is_0_1_0(node, pod, container):
    answer = node.call("ADD", container, pod, cniVersion=None)
    assert answer.json["cniVersion"] == "0.1.0"
    assert answer.json["ip4"]["ip"].startswith("10.244.1.")


def test_every_missing_variable_is_named(node):
    error(
        node.run({"CNI_COMMAND": "ADD"}, b"{}"), 4, "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH"
    )
    error(node.run({"CNI_COMMAND": "DEL"}, b"{}"), 4, "CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH")
    error(node.run({"CNI_COMMAND": "GC"}, b"{}"), 4, "CNI_PATH")
    error(node.run({"CNI_COMMAND": "FROB"}, b"{}"), 4, "CNI_COMMAND", "FROB")


@pytest.mark.parametrize("name", ["-a", ".a", "_a", "a/b", "a b", "a:b", "a\u00e4"])
def test_a_container_id_is_letters_digits_and_some_marks(node, pod, name):
    error(node.call("ADD", name, pod), 4, "CNI_CONTAINERID")


@pytest.mark.parametrize("name", [".", "..", "sixteen-letters-", "a/b", "a:b", "a b", "a\u2003b"])
def test_an_interface_name_is_one_the_kernel_takes(node, pod, container, name):
    error(node.call("ADD", container, pod, ifname=name), 4, "CNI_IFNAME")


def test_the_longest_names_are_taken(node, pod, container):
    assert node.call("ADD", container, pod, ifname="fifteen-letters").code == 0
    assert "fifteen-letters" in run_in(pod, "ip", "-o", "link")
    long = f"{container}-{'x' * 200}"
    assert node.call("ADD", long, pod, ifname="net1").code == 0
    assert node.call("DEL", long, pod, ifname="net1").code == 0


@pytest.mark.parametrize("name", ["", "-net", "a/b", "a b"])
def test_a_networks_name_is_as_a_container_id(node, pod, container, name):
    error(node.call("ADD", container, pod, name=name), 7, "name")


def test_keys_that_are_not_ours_and_empty_capabilities_are_let_through(node, pod, container):
    empty = {
        "portMappings": [],
        "bandwidth": {},
        "ips": [],
        "mac": "",
        "ipRanges": [],
        "dns": {},
        "deviceID": "",
    }
    others = {"aliases": {"net": ["a"]}, "cgroupPath": "/x", "io.kubernetes.cri.pod-annotations": {"a": "b"}}
    answer = node.call(
        "ADD",
        container,
        pod,
        isGateway=True,
        plugins=[],
        keyOfTomorrow={"x": 1},
        runtimeConfig={**empty, **others},
    )
    assert answer.code == 0, answer.stdout


# --- what a runtime asks for, from its three places -------------------------------------------------------

IN_ARGS = {
    "cni": {"ips": ["10.244.1.92"], "mac": "06:00:00:00:00:92", "labels": [{"key": "a", "value": "b"}]}
}
IN_RUNTIME = {"ips": ["10.244.1.91/24"], "mac": "06-00-00-00-00-91"}


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ({"args": "IP=10.244.1.93;MAC=06:00:00:00:00:93"}, 93),
        ({"config": {"args": IN_ARGS}}, 92),
        ({"config": {"runtimeConfig": IN_RUNTIME}}, 91),
        ({"args": "IP=10.244.1.93;MAC=06:00:00:00:00:93", "config": {"args": IN_ARGS}}, 92),
        ({"config": {"runtimeConfig": IN_RUNTIME, "args": IN_ARGS}}, 91),
        (
            {
                "args": "IP=10.244.1.93;MAC=06:00:00:00:00:93",
                "config": {"runtimeConfig": IN_RUNTIME, "args": IN_ARGS},
            },
            91,
        ),
    ],
)
def test_address_and_mac_by_each_way_and_the_stronger_first(node, pod, container, asked, number):
    document = network(**asked.get("config", {}))
    added = node.call("ADD", container, pod, config=document, args=asked.get("args", ""))
    assert added.code == 0, added.stdout
    (link,) = json.loads(run_in(pod, "ip", "-j", "address", "show", "dev", "eth0"))
    assert link["address"] == f"06:00:00:00:00:{number}"
    assert [a["local"] for a in link["addr_info"] if a["family"] == "inet"] == [f"10.244.1.{number}"]


def test_addresses_of_both_families_and_only_of_ours(node, pod, container):
    asked = {"ips": ["fd00:10:244:1::77/64", "10.244.1.77"]}
    added = node.call("ADD", container, pod, ipam=DUAL, runtimeConfig=asked)
    assert [ip["address"] for ip in added.json["ips"]] == ["10.244.1.77/32", "fd00:10:244:1::77/128"]
    for wrong in (["192.0.2.1"], ["10.244.1.78", "10.244.1.79"], ["nonsense"], "10.244.1.78"):
        refused = node.call("ADD", container, pod, ifname="net1", ipam=DUAL, runtimeConfig={"ips": wrong})
        error(refused, 7, "ips")
    taken = node.call("ADD", container, pod, ifname="net1", runtimeConfig={"ips": ["10.244.1.77"]})
    error(taken, 106, "10.244.1.77")


@pytest.mark.parametrize("mac", ["nonsense", "01:00:00:00:00:01", "00:00:00:00:00:00", 7])
def test_a_mac_that_no_interface_can_have_is_7(node, pod, container, mac):
    error(node.call("ADD", container, pod, runtimeConfig={"mac": mac}), 7, "runtimeConfig.mac")


def test_the_next_range_is_used_when_one_is_full(node, container):
    ranges = {"ranges": [["10.244.20.0/30", "10.244.21.0/30"], ["fd00:20::/126"]]}
    given = []
    with pods(2) as both:
        for number, pod in enumerate(both):
            added = node.call("ADD", container, pod, ifname=f"net{number}", ipam=ranges)
            given.append([ip["address"] for ip in added.json["ips"]])
        full = node.call("ADD", container, both[0], ifname="net9", ipam=ranges)
        for number in range(2):
            assert node.call("DEL", container, ifname=f"net{number}").code == 0
    assert given == [
        ["10.244.20.2/32", "fd00:20::2/128"],
        ["10.244.21.2/32", "fd00:20::3/128"],
    ]
    error(full, 101, "10.244.20.0/30", "10.244.21.0/30")


# --- chains -----------------------------------------------------------------------------------------------


def previous_of(version: str) -> dict[str, object]:
    """An earlier plugin's result in ``version``."""
    routes = [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}]
    if version in ("0.1.0", "0.2.0"):
        old = {"ip": "192.0.2.5/24", "gateway": "192.0.2.1", "routes": routes}
        return {"cniVersion": version, "ip4": old, "dns": {"nameservers": ["192.0.2.53"]}}
    address = {"address": "192.0.2.5/24", "gateway": "192.0.2.1"}
    if version.startswith("0."):
        address["version"] = "4"
    return {"cniVersion": version, "ips": [address], "routes": routes, "dns": {"nameservers": ["192.0.2.53"]}}


@pytest.mark.parametrize("asked", VERSIONS)
@pytest.mark.parametrize("given", VERSIONS)
def test_a_previous_result_of_any_version_in_the_version_asked_for(node, pod, container, given, asked):
    answer = node.call("ADD", container, pod, cniVersion=asked, prevResult=previous_of(given))
    assert answer.code == 0, answer.stdout
    result = answer.json
    assert result["cniVersion"] == asked
    assert result["dns"] == {"nameservers": ["192.0.2.53"]}
    if asked in ("0.1.0", "0.2.0"):
        first, routes = result["ip4"], result["ip4"]["routes"]
        assert (first["ip"], first["gateway"]) == ("192.0.2.5/24", "192.0.2.1")
    else:
        first, routes = result["ips"][0], result["routes"]
        assert (first["address"], first["gateway"]) == ("192.0.2.5/24", "192.0.2.1")
        assert result["interfaces"][result["ips"][1]["interface"]]["sandbox"] == netns_path(pod)
    assert routes[0] == {"dst": "198.51.100.0/24", "gw": "192.0.2.1"}


@pytest.mark.parametrize(
    ("previous", "code"),
    [
        ("nonsense", 6),
        ({"cniVersion": "1.0.0", "ips": {}}, 6),
        ({"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.5/24", "interface": "0"}]}, 6),
        ({"cniVersion": "1.0.0", "routes": [{"dst": "x"}]}, 6),
        ({"cniVersion": "9.0.0"}, 1),
    ],
)
def test_a_previous_result_that_cannot_be_read(node, pod, container, previous, code):
    error(node.call("ADD", container, pod, prevResult=previous), code, "prevResult")


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_check_in_a_chain_compares_what_is_ours(node, pod, container, version):
    added = node.call("ADD", container, pod, cniVersion=version, prevResult=previous_of("0.3.1"))
    checked = node.call("CHECK", container, pod, cniVersion=version, prevResult=added.json)
    assert (checked.code, checked.stdout) == (0, b"")
    foreign = node.call("CHECK", container, pod, cniVersion=version, prevResult=previous_of(version))
    error(foreign, 104, "prevResult")


# --- failures, DEL, CHECK ---------------------------------------------------------------------------------

FAIL_AT = """
import sys
from pathlib import Path
from cni import messages, netlink
from netplane.errors import KernelError
countdown = Path(sys.argv[1], "countdown")
messages.batches = lambda steps: ([step] for step in steps)
do, replay = netlink._Worker.do, netlink._Worker.replay
def count(what):
    left = int(countdown.read_text())
    countdown.write_text(str(left - 1))
    if left == 0:
        raise KernelError(f"cannot {what}: injected")
def failing(self, steps):
    (step,) = steps
    if type(step).__name__ != "DeleteLink" and getattr(step, "adding", True):
        count(netlink.describe(step))
    do(self, steps)
def failing_replay(self, part, data):
    count("replay")
    return replay(self, part, data)
netlink._Worker.do, netlink._Worker.replay = failing, failing_replay
"""
SHAPED = {
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}],
    "bandwidth": {
        "ingressRate": 8000000,
        "ingressBurst": 800000,
        "egressRate": 8000000,
        "egressBurst": 800000,
    },
}
PLAIN = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}


@pytest.mark.parametrize("asked", [PLAIN, SHAPED], ids=["by its recipe", "step by step"])
def test_an_add_that_fails_at_any_step_leaves_nothing_and_its_del_succeeds(tmp_path, asked):
    with cni_node(tmp_path, start=False) as node, pods(1) as (pod,):
        node.start(FAIL_AT)
        for number in range(100):
            (tmp_path / "countdown").write_text(str(number))
            answer = node.call("ADD", "fails", pod, ipam=DUAL, runtimeConfig=asked)
            if answer.code == 0:
                break
            error(answer, 100, "injected")
            assert node.residue() == {}, answer.json
            assert run_in(pod, "ip", "-o", "link").count("\n") == 1, answer.json
            assert node.call("DEL", "fails", pod).stdout == b""
        assert number > 15, "every step was tried"
        assert node.call("DEL", "fails", pod).code == 0
        assert node.residue() == {}


def test_the_same_container_in_another_namespace_is_attached_anew(node, container):
    """Its first namespace went without a DEL, as when a machine runs out of memory."""
    with pods(1) as (first,):
        assert node.call("ADD", container, first).code == 0
    with pods(1) as (second,):
        answer = node.call("ADD", container, second)
        assert answer.code == 0, answer.stdout
        assert [lease.terms.netns for lease in node.leases()] == [netns_path(second)]
        error(node.call("ADD", container, second), 102, container)
        assert node.call("DEL", container, second).code == 0


def test_del_and_check_without_a_row(tmp_path):
    with cni_node(tmp_path) as node, pods(1) as (pod,):
        added = node.call("ADD", "c", pod)
        node.stop()
        for path in store_path(Paths(tmp_path).state).parent.glob("leases.sqlite*"):
            path.unlink()
        node.start()
        error(node.call("CHECK", "c", pod, prevResult=added.json), 3, "c")
        answer = node.call("DEL", "c", pod)
        assert (answer.code, answer.stdout) == (0, b"")
        assert node.residue() == {}


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("ip link set {link} down", "{link} of the host is down"),
        ("ip link set {link} mtu 1000", "{link} of the host has MTU 1000"),
        (
            "ip link set {link} address 02:11:22:33:44:55",
            "{link} of the host has the address 02:11:22:33:44:55",
        ),
        ("ip -6 route flush proto 97", "route of the host to fd00:10:244:1::"),
        ("nft flush map inet netplane_cni ports4", "ports4"),
        ("nft flush map inet netplane_cni bound6", "bound6"),
        ("nft flush chain inet netplane_cni postrouting", "rules of nftables"),
    ],
)
def test_check_names_what_of_the_nodes_side_is_not_as_it_was(tmp_path, command, named):
    mappings = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "fd77::11"},
    ]
    with cni_node(tmp_path) as node, pods(1) as (pod,):
        added = node.call("ADD", "c", pod, ipam=DUAL, runtimeConfig={"portMappings": mappings})
        assert node.call("CHECK", "c", pod, ipam=DUAL, prevResult=added.json).stdout == b""
        link = added.json["interfaces"][0]["name"]
        node.command(*command.format(link=link).split())
        checked = node.call("CHECK", "c", pod, ipam=DUAL, prevResult=added.json)
        error(checked, 104, named.format(link=link))


# --- GC, STATUS -------------------------------------------------------------------------------------------

REFUSES_ONE = """
from cni import verbs
from cni.errors import CniError, Code
delete = verbs.delete
def refusing(attachment, node):
    if attachment.container_id == "stuck":
        raise CniError(Code.KERNEL, "cannot delete the link: injected")
    delete(attachment, node)
verbs.delete = refusing
"""


def test_gc_goes_on_past_an_error_and_reports_it(tmp_path):
    with cni_node(tmp_path, start=False) as node, pods(3) as namespaces:
        node.start(REFUSES_ONE)
        for name, pod in zip(("before", "stuck", "zafter"), namespaces, strict=True):
            assert node.call("ADD", name, pod).code == 0
        nothing = {"cni.dev/valid-attachments": []}
        error(node.call("GC", cniVersion="1.1.0", **nothing), 100, "stuck", "injected")
        assert [lease.attachment.container_id for lease in node.leases()] == ["stuck"]
        node.stop()
        node.start()
        answer = node.call("GC", cniVersion="1.1.0", **nothing)
        assert (answer.code, answer.stdout) == (0, b"")
        assert node.residue() == {}


@pytest.mark.parametrize(
    "listed", [None, {}, [{"containerID": "c"}], [{"containerID": 1, "ifname": "eth0"}], ["c"]]
)
def test_gc_frees_nothing_by_a_list_it_cannot_read(node, pod, container, listed):
    assert node.call("ADD", container, pod).code == 0
    refused = node.call("GC", cniVersion="1.1.0", **{"cni.dev/valid-attachments": listed})
    error(refused, 7, "cni.dev/valid-attachments")
    assert len(node.leases()) == 1


def test_status_is_51_where_pods_that_are_there_are_cut_off_too(tmp_path):
    with cni_node(tmp_path) as node, pods(2) as (one, two):
        assert node.call("ADD", "one", one).code == 0
        node.command("sysctl", "-qw", "net.ipv4.ip_forward=0")
        error(node.call("STATUS", cniVersion="1.1.0"), 51, "net.ipv4.ip_forward")
        assert node.call("ADD", "two", two).code == 0, "runtimes may try all the same"
        client.gc(node.root)
        assert node.call("STATUS", cniVersion="1.1.0").code == 0


# --- the process ------------------------------------------------------------------------------------------


def test_it_works_for_a_caller_in_any_namespace_and_directory(node, pod, container):
    """The daemon's namespace is the node's; where the executable runs does not matter."""
    words = ["nsenter", f"--net=/proc/self/fd/{pod}", node.plugin]
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_PATH": "/",
        "PATH": os.defpath,
    }
    stdin = json.dumps(network()).encode()
    done = subprocess.run(
        words, env=environment, input=stdin, pass_fds=[pod], cwd="/proc", capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stdout
    assert "eth0" in run_in(pod, "ip", "-o", "link")
    assert len(node.links()) == 1


def test_nothing_is_left_of_all_of_this(node):
    assert node.residue() == {}
