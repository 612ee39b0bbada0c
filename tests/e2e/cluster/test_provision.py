"""The provisioning script's configuration steps, run on machines of a lab as on a virtual machine."""

import shlex
import stat
from pathlib import Path

import yaml

from tests.e2e.cluster.driver import NETPLANE, ROOT, Lab

PROVISION = str(ROOT / "vagrant/provision.sh")


def provision(lab: Lab, machine: str, root: Path, *arguments: str, check: bool = True) -> str:
    environment = [f"NETPLANE_ROOT={root}", "NETPLANE_STEPS=configure", f"NETPLANE={NETPLANE}"]
    return lab.exec(machine, "env", *environment, PROVISION, *arguments, check=check, errors=True)


def test_a_control_plane_is_configured(lab: Lab, tmp_path: Path) -> None:
    output = provision(lab, "outside", tmp_path, "control-plane", "--address", "192.168.77.1", "--name", "cp")
    assert "configuring the control-plane" in output
    etc = tmp_path / "etc/netplane"
    settings = yaml.safe_load((etc / "controlplane.yaml").read_text())
    assert settings["addresses"] == ["192.168.77.1"]
    for name in ("pki/ca.key", "pki/apiserver.key", "admin.kubeconfig", "controlplane.kubeconfig"):
        assert stat.S_IMODE((etc / name).stat().st_mode) == 0o600
    before = (etc / "pki/ca.crt").read_bytes()
    provision(lab, "outside", tmp_path, "control-plane", "--address", "192.168.77.1", "--name", "cp")
    assert (etc / "pki/ca.crt").read_bytes() == before, "repeating it must not make another cluster"


def test_a_worker_joins_the_running_cluster(lab: Lab, tmp_path: Path) -> None:
    line = shlex.split(lab.exec("m1", "netplane", "token").strip().splitlines()[-1])
    joining = line[line.index("--join") :]
    output = provision(lab, "outside", tmp_path, "worker", *joining[:4], "--name", "w9")
    assert "joining 192.168.77.10" in output
    kubeconfig = str(tmp_path / "etc/netplane/node.kubeconfig")
    nodes = lab.exec("outside", lab.kubectl_path, "--kubeconfig", kubeconfig, "get", "nodes", "-o", "name")
    assert "node/n1" in nodes
    for daemon in ("node", "proxy", "dns"):
        assert (tmp_path / f"etc/netplane/{daemon}.yaml").exists(), "the systemd unit starts only with it"


def test_joining_another_cluster_is_refused(lab: Lab, tmp_path: Path) -> None:
    """The token goes only to the cluster whose authority has the hash that was typed."""
    wrong = ("--join", "abcdef.0123456789abcdef@192.168.77.10", "--ca-hash", f"sha256:{'0' * 64}")
    output = provision(lab, "outside", tmp_path, "worker", *wrong, "--name", "w9", check=False)
    assert "no certificate it presents has the hash" in output
    assert not (tmp_path / "etc/netplane/node.kubeconfig").exists()
