"""The specification's rules, by running the installed executable as a runtime does: the C shim, and its Python twin.

One daemon for each; every test has containers and namespaces of its own.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cni.install import SHIM, install
from cni.journal import Journal, journal_path
from cni.protocol import Attachment
from netplane.config import Paths
from tests.netns.cni_node import cni_node, netns_path, network, pods, run_in

pytestmark = pytest.mark.netns

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CHECKABLE = ("0.4.0", "1.0.0", "1.1.0")


@pytest.fixture(scope="module", params=["shim", "python"])
def executable(request):
    """Where the compiled shim is, or would be."""
    if request.param == "shim" and not SHIM.exists():
        pytest.skip("expected skip: no compiled shim (./dev setup builds it where there is a C compiler)")
    return SHIM if request.param == "shim" else SHIM.with_name("not-compiled")


@pytest.fixture(scope="module")
def node(tmp_path_factory, executable):
    with cni_node(tmp_path_factory.mktemp("node"), shim=executable) as made:
        yield made


def error(answer, code: int, *named: str) -> None:
    """Row 6: a non-zero exit and exactly one error object on standard output, logs nowhere near it."""
    assert answer.code != 0
    document = answer.json
    assert document["code"] == code, document
    assert document["cniVersion"]
    assert set(document) <= {"cniVersion", "code", "msg", "details"}
    for part in named:
        assert part in document["msg"], document


# --- VERSION, versions, environment, decoding -------------------------------------------------------------


@pytest.mark.parametrize("stdin", [b"", b'{"cniVersion": "0.4.0"}'])
def test_version_needs_neither_container_nor_daemon(tmp_path, executable, stdin):
    plugin = install(tmp_path, Path(sys.executable), Paths(tmp_path), executable).path
    done = subprocess.run(
        [plugin], env={"CNI_COMMAND": "VERSION"}, input=stdin, capture_output=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer == {"cniVersion": "0.4.0" if stdin else "1.1.0", "supportedVersions": list(VERSIONS)}


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_an_unsupported_version_is_1(node, pod, container, command):
    error(node.call(command, container, pod, cniVersion="3.0.0"), 1, "3.0.0")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "0.3.1"])
def test_check_below_0_4_0_is_1(node, pod, container, version):
    error(node.call("CHECK", container, pod, cniVersion=version), 1, "CHECK", "0.4.0")


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_gc_and_status_below_1_1_0_are_1(node, command):
    error(node.call(command, cniVersion="1.0.0"), 1, command, "1.1.0")


@pytest.mark.parametrize("missing", ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_PATH"])
def test_a_missing_variable_is_4_and_named(node, pod, missing):
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "x",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": netns_path(pod),
        "CNI_PATH": "/opt/cni/bin",
    }
    del environment[missing]
    error(node.run(environment, json.dumps(network()).encode()), 4, missing)


def test_a_wrong_variable_is_4_and_named(node, pod, container):
    error(node.call("ADD", container, pod, ifname="a/b"), 4, "CNI_IFNAME")
    error(node.call("ADD", "-bad", pod), 4, "CNI_CONTAINERID")
    error(node.call("ADD", container, "/no/\udcff"), 4, "CNI_NETNS")
    error(node.call("ADD", container, "/no/such/netns"), 4, "CNI_NETNS", "/no/such/netns")
    error(node.call("ADD", container, pod, args="NONSENSE"), 4, "CNI_ARGS")
    error(node.call("ADD", container, pod, args="FOO=1"), 4, "FOO")


def test_a_file_that_is_no_namespace_is_refused(node, container, tmp_path):
    (tmp_path / "file").write_text("")
    error(node.call("ADD", container, str(tmp_path / "file")), 4, "CNI_NETNS")


def test_the_nodes_own_namespace_is_refused(node, container):
    error(node.call("ADD", container, node.netns), 8, "the node's own namespace")
    assert node.leases() == []


def test_standard_input_that_cannot_be_read_is_5(node):
    done = subprocess.run(
        ["sh", "-c", f"exec {node.plugin} <&-"], env={"CNI_COMMAND": "ADD"}, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert json.loads(done.stdout)["code"] == 5


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]"])
def test_what_is_no_json_object_is_6(node, pod, stdin):
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "x", "CNI_IFNAME": "eth0", "CNI_PATH": "/"}
    error(node.run({**environment, "CNI_NETNS": netns_path(pod)}, stdin), 6)


def test_an_invalid_configuration_is_7_and_an_unsupported_field_2(node, pod, container):
    error(node.call("ADD", container, pod, name=None), 7, "name")
    error(
        node.call("ADD", container, pod, ipam={"ranges": [["10.0.0.0/99"]]}),
        7,
        "ipam.ranges[0][0]",
        "10.0.0.0/99",
    )
    error(node.call("ADD", container, pod, ipam={"type": "dhcp"}), 2, "ipam.type", "dhcp")
    error(node.call("ADD", container, pod, runtimeConfig={"bandwidth": {"ingressRate": 1}}), 7, "bandwidth")
    error(node.call("ADD", container, pod, runtimeConfig={"deviceID": "0000:01"}), 2, "deviceID", "0000:01")
    assert node.residue() == {}


# --- ADD --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_add_answers_one_result_in_the_requests_version(node, pod, container, version):
    answer = node.call("ADD", container, pod, cniVersion=version, dns={"nameservers": ["10.96.0.10"]})
    assert answer.code == 0, answer.stdout
    result = answer.json
    assert result["cniVersion"] == version
    assert result["dns"] == {"nameservers": ["10.96.0.10"]}
    if version in ("0.1.0", "0.2.0"):
        assert set(result) == {"cniVersion", "ip4", "dns"}
        assert set(result["ip4"]) == {"ip", "gateway", "routes"}
        return
    host, inside = result["interfaces"]
    assert "sandbox" not in host
    assert (inside["name"], inside["sandbox"]) == ("eth0", netns_path(pod))
    (address,) = result["ips"]
    assert address["interface"] == 1
    assert address.get("version") == ("4" if version.startswith("0.") else None)
    assert ("mtu" in inside) is (version == "1.1.0")
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]


def test_add_over_an_existing_interface_is_an_error_and_harms_nothing(node, pod, container):
    run_in(pod, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    error(node.call("ADD", container, pod), 102, "eth0")
    assert "other" in run_in(pod, "ip", "link")
    assert node.residue() == {}


def test_add_twice_is_an_error_and_the_first_attachment_stays(node, pod, container):
    first = node.call("ADD", container, pod)
    before = node.leases()
    error(node.call("ADD", container, pod), 102, container)
    assert node.leases() == before
    assert node.call("CHECK", container, pod, prevResult=first.json).code == 0


def test_one_container_may_have_two_interfaces_and_two_networks(node, pod, container):
    answers = [
        node.call("ADD", container, pod),
        node.call("ADD", container, pod, ifname="net1"),
        node.call("ADD", container, pod, ifname="net2", name="other", ipam={"ranges": [["10.244.7.0/24"]]}),
    ]
    assert [a.code for a in answers] == [0, 0, 0], [a.stdout for a in answers]
    assert len({a.json["ips"][0]["address"] for a in answers}) == 3
    routes = run_in(pod, "ip", "-4", "route").splitlines()
    assert routes[0].startswith("default via 169.254.1.1 dev eth0"), "the first keeps the default route"
    assert node.call("DEL", container, pod, ifname="net1").code == 0
    for ifname, name, answer in (("eth0", "netplane", answers[0]), ("net2", "other", answers[2])):
        checked = node.call("CHECK", container, pod, ifname=ifname, name=name, prevResult=answer.json)
        assert (checked.code, checked.stdout) == (0, b"")


def test_the_same_identity_in_two_networks_is_two_attachments(node, container):
    with pods(2) as (one, two):
        first = node.call("ADD", container, one)
        second = node.call("ADD", container, two, name="other")
        assert (first.code, second.code) == (0, 0)
        assert first.json["ips"] != second.json["ips"], "one range, and no address twice on a node"
        assert node.call("DEL", container, two, name="other").code == 0
        assert node.call("CHECK", container, one, prevResult=first.json).code == 0


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_a_chained_add_loses_nothing_of_prev_result(node, pod, container, version):
    previous = {
        "cniVersion": version,
        "interfaces": [{"name": "first0", "mac": "02:00:00:00:00:09", "sandbox": "/x"}],
        "ips": [{"address": "192.0.2.5/24", "gateway": "192.0.2.1", "interface": 0}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    }
    if version.startswith("0."):
        previous["ips"][0]["version"] = "4"
    if version == "1.1.0":
        previous["routes"][0] |= {"mtu": 1400, "priority": 7}
    result = node.call("ADD", container, pod, cniVersion=version, prevResult=previous).json
    assert result["interfaces"][0] == previous["interfaces"][0]
    assert result["ips"][0] == previous["ips"][0]
    assert result["routes"][0] == previous["routes"][0]
    assert result["dns"] == previous["dns"]
    assert result["interfaces"][result["ips"][1]["interface"]]["name"] == "eth0"


def test_prev_result_of_an_older_version_is_converted_and_a_malformed_one_refused(node, pod, container):
    old = {"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "192.0.2.5/24"}]}
    result = node.call("ADD", container, pod, cniVersion="1.0.0", prevResult=old).json
    assert result["ips"][0] == {"address": "192.0.2.5/24"}
    bad = {"cniVersion": "1.0.0", "ips": [{"address": "nonsense"}]}
    error(node.call("ADD", container, pod, ifname="net1", prevResult=bad), 6, "prevResult.ips[0].address")


def test_an_exhausted_range_is_named_and_nothing_is_half_made(node, container):
    small = {"ranges": [["10.244.8.0/30"]]}
    with pods(2) as (one, two):
        assert node.call("ADD", container, one, ipam=small).code == 0
        before = (node.leases(), node.links(), node.nft())
        error(node.call("ADD", f"{container}-second", two, ipam=small), 101, "10.244.8.0/30", "in use")
        assert (node.leases(), node.links(), node.nft()) == before
        assert run_in(two, "ip", "-o", "link").count("\n") == 1
        error(node.call("STATUS", cniVersion="1.1.0", ipam=small), 50, "10.244.8.0/30")
        assert node.call("DEL", container, one).code == 0
        assert node.call("ADD", f"{container}-second", two, ipam=small).code == 0
        assert node.call("DEL", f"{container}-second", two).code == 0


@pytest.mark.parametrize(
    "args", ["IgnoreUnknown=1;FOO=2", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c"]
)
def test_arguments_that_runtimes_send_are_accepted(node, pod, container, args):
    assert node.call("ADD", container, pod, args=args).code == 0


def test_wishes_are_granted_and_seen_in_the_kernel(node, pod, container):
    wishes = {"mac": "06:00:00:00:00:99", "ips": ["10.244.1.77/24"], "dns": {"servers": ["192.0.2.53"]}}
    answer = node.call(
        "ADD", container, pod, runtimeConfig=wishes, args="MAC=06:00:00:00:00:01;IP=10.244.1.78"
    )
    assert answer.code == 0, answer.stdout
    assert answer.json["interfaces"][1]["mac"] == "06:00:00:00:00:99"
    assert answer.json["ips"][0]["address"] == "10.244.1.77/32"
    assert answer.json["dns"] == {"nameservers": ["192.0.2.53"]}
    assert "06:00:00:00:00:99" in run_in(pod, "ip", "link", "show", "eth0")
    assert "10.244.1.77/32" in run_in(pod, "ip", "address", "show", "eth0")
    assert node.call("CHECK", container, pod, prevResult=answer.json).code == 0
    node.command("ping", "-c1", "-W1", "10.244.1.77")
    with pods(1) as (other,):
        error(node.call("ADD", f"{container}-b", other, args="IP=10.244.1.77"), 106, "10.244.1.77")


def test_bandwidth_is_a_token_bucket_each_way(node, pod, container):
    asked = {
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 4_000_000,
        "egressBurst": 400_000,
    }
    answer = node.call("ADD", container, pod, runtimeConfig={"bandwidth": asked})
    assert answer.code == 0, answer.stdout
    received = node.command("tc", "qdisc", "show", "dev", answer.json["interfaces"][0]["name"])
    sent = run_in(pod, "tc", "qdisc", "show", "dev", "eth0")
    assert "tbf" in received
    assert "rate 8Mbit burst" in received
    assert "rate 4Mbit burst" in sent
    only = node.call("ADD", container, pod, ifname="net1", runtimeConfig={"bandwidth": {"egressRate": 0}})
    assert only.code == 0
    assert "tbf" not in run_in(pod, "tc", "qdisc", "show", "dev", "net1")


def test_ranges_of_the_runtime_give_a_second_family(node, pod, container):
    answer = node.call("ADD", container, pod, runtimeConfig={"ipRanges": [[{"subnet": "fd00:7::/64"}]]})
    first, second = (entry["address"] for entry in answer.json["ips"])
    assert (first, second.partition(".")[0]) == ("fd00:7::2/128", "10")
    assert "fd00:7::2/128" in run_in(pod, "ip", "address", "show", "eth0")


# --- DEL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_del_is_idempotent_and_silent(node, pod, container, version):
    for _ in range(2):
        answer = node.call("DEL", container, pod, cniVersion=version)
        assert (answer.code, answer.stdout) == (0, b"")
    assert node.call("ADD", container, pod, cniVersion=version).code == 0
    for _ in range(2):
        answer = node.call("DEL", container, pod, cniVersion=version)
        assert (answer.code, answer.stdout) == (0, b"")
    assert node.residue() == {}


@pytest.mark.parametrize("how", ["gone", "empty", "absent", "replaced"])
def test_del_without_the_namespace_frees_all(node, container, how):
    with pods(1) as (made,):
        assert node.call("ADD", container, made).code == 0
        path = netns_path(made)
    with pods(1) as (other,):
        netns = {"gone": path, "empty": "", "absent": None, "replaced": other}[how]
        assert node.call("DEL", container, netns).code == 0
    assert node.residue() == {}


def test_del_goes_by_what_add_did_not_by_the_configuration_since(node, pod, container):
    assert node.call("ADD", container, pod).code == 0
    changed = {"ipam": {"ranges": [["192.0.2.0/24"]]}, "masquerade": {"exclude": []}, "mtu": 9000}
    assert node.call("DEL", container, pod, **changed).code == 0
    assert node.residue() == {}


def test_del_with_a_configuration_that_add_would_refuse(node, pod, container):
    assert node.call("ADD", container, pod).code == 0
    assert node.call("DEL", container, pod, ipam="nonsense", prevResult="nonsense").code == 0
    assert node.residue() == {}


# --- CHECK ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", CHECKABLE)
def test_check_right_after_add_is_silent(node, pod, container, version):
    added = node.call("ADD", container, pod, cniVersion=version)
    answer = node.call("CHECK", container, pod, cniVersion=version, prevResult=added.json)
    assert (answer.code, answer.stdout) == (0, b"")


def test_check_without_prev_result_is_7(node, pod, container):
    assert node.call("ADD", container, pod).code == 0
    error(node.call("CHECK", container, pod), 7, "prevResult")


@pytest.mark.parametrize(
    ("commands", "named"),
    [
        (["ip link set eth0 down"], "eth0 of the pod is down"),
        (["ip link set eth0 mtu 1000"], "MTU 1000"),
        (["ip link set eth0 address 02:11:22:33:44:55"], "02:11:22:33:44:55"),
        (["ip link set lo down"], "lo of the pod is down"),
        (["ip address flush dev eth0"], "address"),
        (["ip route del default"], "default route"),
        (["ip link del eth0"], "eth0 of the pod is missing"),
    ],
)
def test_check_names_what_was_lost_in_the_pod(node, pod, container, commands, named):
    added = node.call("ADD", container, pod)
    for command in commands:
        run_in(pod, *command.split())
    error(node.call("CHECK", container, pod, prevResult=added.json), 104, named)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("ip route flush proto 97", "route of the host"),
        ("ip neigh flush nud permanent", "neighbour entry"),
        ("nft flush set inet netplane_cni hairpin4", "hairpin4"),
        ("nft flush set inet netplane_cni {leaving}", "leaving4-"),
    ],
)
def test_check_names_what_was_lost_on_the_host(node, pod, container, command, named):
    added = node.call("ADD", container, pod)
    leaving = re.search(r"leaving4-\w+", node.nft())
    node.command(*command.format(leaving=leaving[0]).split())
    error(node.call("CHECK", container, pod, prevResult=added.json), 104, named)


def test_check_tolerates_what_a_later_plugin_added(node, pod, container):
    added = node.call("ADD", container, pod).json
    run_in(pod, "ip", "route", "add", "192.0.2.0/24", "via", "169.254.1.1", "dev", "eth0", "onlink")
    run_in(pod, "ip", "address", "add", "192.0.2.9/32", "dev", "eth0")
    added["interfaces"].append({"name": "later0", "mac": "02:00:00:00:00:77"})
    assert node.call("CHECK", container, pod, prevResult=added).code == 0


def test_check_after_del_is_3(node, pod, container):
    added = node.call("ADD", container, pod)
    assert node.call("DEL", container, pod).code == 0
    error(node.call("CHECK", container, pod, prevResult=added.json), 3, container)


# --- GC, STATUS -------------------------------------------------------------------------------------------


def test_gc_frees_all_else_in_that_network_only(node, container):
    listed = {"cni.dev/valid-attachments": [{"containerID": f"{container}-1", "ifname": "eth0"}]}
    with pods(3) as namespaces:
        for number, netns in enumerate(namespaces):
            name = "other" if number == 2 else "netplane"
            assert node.call("ADD", f"{container}-{number}", netns, name=name).code == 0
        for _ in range(2):
            answer = node.call("GC", cniVersion="1.1.0", **listed)
            assert (answer.code, answer.stdout) == (0, b"")
            left = {lease.attachment.container_id for lease in node.leases()}
            assert left == {f"{container}-1", f"{container}-2"}
        for name in ("netplane", "other"):
            answer = node.call("GC", cniVersion="1.1.0", name=name, **{"cni.dev/valid-attachments": []})
            assert answer.code == 0
    assert node.residue() == {}


def test_status_is_silent_when_ready(node):
    answer = node.call("STATUS", cniVersion="1.1.0")
    assert (answer.code, answer.stdout) == (0, b"")


# --- the executable ---------------------------------------------------------------------------------------


def without_daemon(root: Path, executable: Path, environment: dict[str, str], stdin: bytes):
    """Run a plugin whose daemon is down, patience shortened in the installed file where it can be."""
    plugin = install(root / "bin", Path(sys.executable), Paths(root), executable).path
    if executable != SHIM:
        text = plugin.read_text()
        plugin.write_text(
            text.replace("_SECONDS = 5.0", "_SECONDS = 0.1").replace("_SECONDS = 1.0", "_SECONDS = 0.1")
        )
    return subprocess.run([plugin], env=environment, input=stdin, capture_output=True, check=False)


ATTACHMENT = {"CNI_CONTAINERID": "x", "CNI_IFNAME": "eth0", "CNI_NETNS": "/proc/self/ns/net", "CNI_PATH": "/"}


@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50), ("VERSION", 0)]
)
def test_a_daemon_that_is_down_never_makes_a_success(tmp_path, executable, command, code):
    if command in ("CHECK", "GC"):
        executable = SHIM.with_name("not-compiled")  # the shim would be as patient as for an ADD: 5 s each
    keys = {"prevResult": {"cniVersion": "1.1.0"}, "cni.dev/valid-attachments": []}
    stdin = json.dumps(network(cniVersion="1.1.0", **keys)).encode()
    done = without_daemon(tmp_path, executable, {**ATTACHMENT, "CNI_COMMAND": command}, stdin)
    assert (done.returncode != 0) is (code != 0)
    document = json.loads(done.stdout)
    assert (document.get("code", 0), document["cniVersion"]) == (code, "1.1.0")
    assert code == 0 or "cni.sock" in document["msg"]


def test_a_del_is_promised_where_the_promise_is_durable(tmp_path, executable):
    stdin, environment = json.dumps(network()).encode(), {**ATTACHMENT, "CNI_COMMAND": "DEL"}
    done = without_daemon(tmp_path, executable, environment, stdin)
    assert (done.returncode, done.stdout) == (0, b"")
    (promise,) = journal_path(Paths(tmp_path).state).iterdir()
    assert json.loads(promise.read_bytes()) == {"network": "netplane", "container_id": "x", "ifname": "eth0"}
    promise.unlink()
    promise.parent.rmdir()
    promise.parent.write_text("where the journal should be")
    done = without_daemon(tmp_path, executable, environment, stdin)
    document = json.loads(done.stdout)
    assert (done.returncode, document["code"]) == (1, 11)
    assert "journal" in document["msg"]


@pytest.mark.parametrize(
    ("changed", "stdin", "code"),
    [
        ({"CNI_IFNAME": "a/b"}, {}, 4),
        ({"CNI_CONTAINERID": ""}, {}, 4),
        ({}, {"cniVersion": "9.0.0"}, 1),
        ({}, {"name": ""}, 7),
        ({}, None, 6),
    ],
)
def test_what_no_daemon_would_accept_is_refused_without_one(tmp_path, executable, changed, stdin, code):
    text = b"{" if stdin is None else json.dumps({**network(), **stdin}).encode()
    if stdin == {}:
        executable = SHIM.with_name("not-compiled")  # as above
    done = without_daemon(tmp_path, executable, {**ATTACHMENT, "CNI_COMMAND": "DEL", **changed}, text)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, code)
    assert not journal_path(Paths(tmp_path).state).exists()


def test_promised_dels_are_kept_at_the_start_and_before_the_next_add(node, container):
    with pods(2) as (one, two):
        for number, pod in enumerate((one, two)):
            assert node.call("ADD", f"{container}-{number}", pod).code == 0
        node.stop()
        for _ in range(2):
            assert node.call("DEL", f"{container}-0", one).code == 0
        node.start()
        assert [lease.attachment.container_id for lease in node.leases()] == [f"{container}-1"]
        assert list(journal_path(Paths(node.root).state).iterdir()) == []
        Journal(journal_path(Paths(node.root).state)).write(Attachment("netplane", f"{container}-1", "eth0"))
        assert node.call("ADD", f"{container}-1", two).code == 0, "the promise first"
        node.stop()
        node.start()
        assert len(node.leases()) == 1, "and not again"
        assert node.call("DEL", f"{container}-1", two).code == 0
    assert node.residue() == {}


def test_a_daemon_that_restarts_is_waited_for(node, pod, container):
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": netns_path(pod),
        "CNI_PATH": "/",
    }
    node.stop()
    with subprocess.Popen(
        [node.plugin], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as plugin:
        assert plugin.stdin is not None
        plugin.stdin.write(json.dumps(network()).encode())
        plugin.stdin.close()
        plugin.stdin = None
        node.start()
        stdout, _ = plugin.communicate(timeout=30)
    assert plugin.returncode == 0, stdout


def test_a_large_configuration_passes_whole(node, pod, container):
    answer = node.call("ADD", container, pod, args_of_others={"padding": "x" * (1 << 20)})
    assert answer.code == 0, answer.stdout


def test_a_closed_standard_output_is_a_failure_and_del_mends_it(node, pod, container):
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": netns_path(pod),
        "CNI_PATH": "/",
    }
    reader, writer = os.pipe()
    os.close(reader)
    try:
        broken = subprocess.run(
            [node.plugin],
            env=environment,
            input=json.dumps(network()).encode(),
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert broken.returncode == 1
    assert broken.stderr == b"", "no traceback"
    assert node.call("DEL", container, pod).code == 0
    assert node.residue() == {}


def test_the_socket_is_for_root_alone(node):
    assert node.socket_path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_left_of_all_of_this(node):
    assert node.residue() == {}
