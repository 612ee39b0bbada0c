"""A lab comes, works and goes, and leaves nothing, whatever happens to it on the way."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from netplane.config import Paths
from netplane.errors import PeerError
from netplane.lab import place, up
from netplane.lab.down import down
from netplane.lab.spec import LABS, LabSpec
from netplane.linux.cgroups import Cgroup, detect
from netplane.node.supervise import control as supervisor
from tests.e2e.cluster.driver import KUBECTL, Lab, eventually
from tests.e2e.lab.conftest import inhabitants, links, processes_of, remains, start


def test_a_lab_works_and_leaves_nothing(lab: Lab, name: str) -> None:
    before = links()
    lab.up("--nodes", "1")
    status = json.loads(lab.netplane("lab", "status", "--name", name, "-o", "json"))
    assert [machine["name"] for machine in status["machines"]] == ["m1", "n1"]
    assert {daemon["state"] for daemon in status["daemons"]} == {"running"}

    assert lab.exec("n1", "hostname") == "n1\n"
    environment = lab.exec("n1", "sh", "-c", "echo $NETPLANE_ROOT $KUBECONFIG; ip -br address show eth0")
    assert str(LABS / name / "n1") in environment
    assert "192.168.77.11/24" in environment
    assert lab.exec("n1", "cat", "/proc/1/comm") != Path("/proc/1/comm").read_text()
    assert "192.168.77.1/24" in lab.exec("outside", "ip", "-br", "address", "show", "underlay")
    assert "default" not in lab.exec("n1", "ip", "route")
    group = place.daemons_cgroup(LabSpec(name, nodes=1).machine("n1")).path
    assert f":/{group}\n" in lab.exec("n1", "cat", "/proc/self/cgroup")

    # The listener outside is kept for the API server: who connects while it is away waits, and is answered.
    lab.exec("m1", "netplane", "supervise", "kill", "controlplane")
    words = [str(KUBECTL), "--kubeconfig", lab.kubeconfig, "get", "nodes", "--no-headers"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("n1 "), done.stderr
    assert lab.netplane("lab", "exec", "--name", name, "n1", "--", "sh", "-c", "exit 7", check=False) == ""

    mode = Path(lab.kubeconfig).stat().st_mode & 0o777
    assert mode == 0o600
    assert "server: https://127.0.0.1:" in Path(lab.kubeconfig).read_text()

    inside = inhabitants(name)
    assert len(inside) >= 8
    lab.down()
    assert remains(name, inside) == []
    assert links() == before
    lab.down()  # twice is fine


def test_two_labs_live_side_by_side(lab: Lab, name: str) -> None:
    other = Lab(f"{name}b")
    try:
        making = [start("lab", "up", "--name", one, "--nodes", "1") for one in (name, other.name)]
        for process in making:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        assert Path(lab.kubeconfig).read_text() != Path(other.kubeconfig).read_text()
        inside = inhabitants(other.name)
        other.down()
        assert remains(other.name, inside) == []
        assert '"works"' in lab.exec("n1", "netplane", "status", "-o", "json")
    finally:
        other.down()


def test_the_same_lab_twice_is_refused(lab: Lab, name: str) -> None:
    lab.up("--nodes", "1")
    again = start("lab", "up", "--name", name)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 2
    assert errors.startswith(f"netplane: cannot make lab {name}: it is up already")
    assert lab.exec("n1", "true") == ""


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.6, 1.0, 1.6, 2.4, 3.2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_moment_nothing_stays(name: str, seconds: float, number: int) -> None:
    making = start("lab", "up", "--name", name, "--nodes", "1")
    time.sleep(seconds)  # the moment is the test's parameter
    inside = inhabitants(name)
    making.send_signal(number)
    _, errors = making.communicate(timeout=60)
    assert "netplane/lab/" not in errors  # no traceback; one of Python's own start is not ours to prevent
    if making.returncode == 0:  # on a fast machine it was whole before the signal came: then it stays
        assert place.is_alive(LABS / name)
        return
    eventually(
        lambda: remains(name, inside) == [],
        lambda: f"nothing left; it said {errors!r}; there is {remains(name, inside)}",
        10,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_when_no_more_than_its_directory_is_there(name: str, number: int) -> None:
    """The moment is too short to be met by waiting: the signal comes from within."""
    program = (
        "import os; from netplane.cli.main import main; from netplane.lab import place\n"
        f"place.is_alive = lambda directory: os.kill(os.getpid(), {int(number)}) or False\n"
        f"raise SystemExit(main(['lab', 'up', '--name', {name!r}, '--nodes', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert remains(name) == []


@pytest.mark.parametrize("seconds", [0.5, 1.2, 2.5])
def test_when_lab_up_is_killed_the_lab_ends_by_itself(name: str, seconds: float) -> None:
    making = start("lab", "up", "--name", name, "--nodes", "1")
    time.sleep(seconds)  # the moment is the test's parameter
    inside = inhabitants(name)
    making.kill()
    making.communicate()
    if making.returncode == 0:  # on a fast machine it was whole before the kill came: then it stays
        assert place.is_alive(LABS / name)
    else:
        eventually(lambda: processes_of(name) == [], "the lab's processes ended", 20)
    down(name)
    assert remains(name, inside) == []


def test_a_lab_whose_first_process_was_killed(lab: Lab, name: str) -> None:
    lab.up("--nodes", "1")
    inside = inhabitants(name)
    first = supervisor.peer_pid(place.socket_of(LABS / name))
    subprocess.run(["kill", "-9", str(first)], check=True)
    eventually(lambda: processes_of(name) == [], "its processes ended with it", 20)
    assert "dead" in lab.netplane("lab", "status", "--name", name, check=False)
    lab.up("--nodes", "1")  # in the place of the dead one
    assert lab.exec("n1", "hostname") == "n1\n"
    lab.down()
    assert remains(name, inside) == []


def test_a_damaged_record_does_not_keep_a_lab(lab: Lab, name: str) -> None:
    lab.up("--nodes", "1")
    inside = inhabitants(name)
    place.record_of(LABS / name).write_text("{")
    place.socket_of(LABS / name).unlink()
    lab.down()
    assert remains(name, inside) == []


def test_power_is_cut_and_given(lab: Lab, name: str) -> None:
    lab.up("--nodes", "2")
    lab.netplane("lab", "kill", "--name", name, "n2")
    off = start("lab", "exec", "--name", name, "n2", "--", "true")
    _, errors = off.communicate(timeout=30)
    assert (off.returncode, "machine n2: it is off" in errors) == (1, True)
    assert "to-n2" not in lab.exec("outside", "ip", "link")
    eventually(lambda: not node_ready(lab, "n2"), "n2 not Ready", 30)
    lab.netplane("lab", "start", "--name", name, "n2")
    eventually(lambda: node_ready(lab, "n2"), "n2 Ready again", 30)
    assert lab.exec("n2", "hostname") == "n2\n"


def node_ready(lab: Lab, node: str) -> bool:
    found = lab.exec("outside", "kubectl", "get", "node", node, "-o", "json", check=False)
    status = json.loads(found)["status"] if found else {"conditions": []}
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status["conditions"])


def test_behind_a_nat_interface_the_underlay_is_the_nodes_address(lab: Lab, name: str) -> None:
    lab.up("--nodes", "2", "--nat-interface")
    for number in (1, 2):
        addresses = lab.exec(f"n{number}", "ip", "-br", "-4", "address")
        assert "10.0.2.15/24" in addresses
        assert "10.0.2.15" in lab.exec(f"n{number}", "ip", "route", "get", "192.0.2.1")
    nodes = json.loads(lab.exec("outside", "kubectl", "get", "nodes", "-o", "json"))["items"]
    internal = [
        address["address"]
        for node in nodes
        for address in node["status"]["addresses"]
        if address["type"] == "InternalIP"
    ]
    assert sorted(internal) == ["192.168.77.11", "192.168.77.12"]


def test_a_machine_joins_by_token_and_hash_only(lab: Lab, tmp_path: Path) -> None:
    lab.up("--nodes", "1")
    words = lab.exec("m1", "netplane", "token").split()
    invitation, ca_hash = words[words.index("--join") + 1], words[words.index("--ca-hash") + 1]

    def join(invitation: str, ca_hash: str, node: str) -> subprocess.CompletedProcess[str]:
        command = ["netplane", "node", "--root", str(tmp_path), "--join", invitation, "--ca-hash", ca_hash]
        command = [*command, "--name", node, "--configure-only"]
        entered = start("lab", "exec", "--name", lab.name, "n1", "--", *command)
        output, errors = entered.communicate(timeout=60)
        return subprocess.CompletedProcess(command, entered.returncode, output, errors)

    refused = join("abcdef.0123456789abcdef@192.168.77.10", ca_hash, "n7")
    assert "the token is unknown" in refused.stderr
    wrong = join(invitation, "sha256:" + "0" * 64, "n7")
    assert "no certificate it presents has the hash" in wrong.stderr
    taken = join(invitation, ca_hash, "n7")
    assert "address 192.168.77.11 belongs to node n1" in taken.stderr
    assert not (tmp_path / "etc/netplane/node.kubeconfig").exists()
    joined = join(invitation, ca_hash, "n1")
    assert joined.returncode == 0, joined.stderr
    assert (tmp_path / "etc/netplane/node.kubeconfig").stat().st_mode & 0o777 == 0o600


def test_a_further_machine_becomes_a_node(lab: Lab, tmp_path: Path) -> None:
    """The lab's outside is on the underlay: a process namespace there is a machine that the lab did not make."""
    lab.up("--nodes", "1")
    words = lab.exec("m1", "netplane", "token").split()
    machine = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")
    options = ("--root", str(tmp_path / "r"), "--name", "edge")
    running = start("lab", "exec", "--name", lab.name, "outside", "--", *machine, *words, *options)
    try:
        eventually(lambda: node_ready(lab, "edge"), "edge Ready", 30)
        node = json.loads(lab.exec("outside", "kubectl", "get", "node", "edge", "-o", "json"))
        assert {"type": "InternalIP", "address": "192.168.77.1"} in node["status"]["addresses"]
        route = f"{node['spec']['podCIDR']} via 192.168.77.1"
        eventually(lambda: route in lab.exec("n1", "ip", "route"), "a route to its pods on n1", 10)
    finally:
        running.kill()
        running.communicate()
        Cgroup(detect(), PurePosixPath(Paths(tmp_path / "r").cgroup_name)).remove()


def test_a_lab_that_fails_says_who_and_why_and_is_gone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settings file that a daemon refuses stands for whatever keeps a daemon from starting."""
    write = up.files.write

    def write_wrongly(spec: LabSpec, port: int) -> None:
        write(spec, port)
        spec.machine("n1").paths.etc.joinpath("dns.yaml").write_text("nonsense: 1\n")

    monkeypatch.setattr(up.files, "write", write_wrongly)
    with pytest.raises(PeerError) as failed:
        up.up(LabSpec(name, nodes=1))
    assert "dns on n1 does not start" in str(failed.value)
    assert "Last words: n1/dns: netplane: cannot use" in str(failed.value)
    assert "nonsense is not a known field" in str(failed.value)
    assert remains(name) == []
