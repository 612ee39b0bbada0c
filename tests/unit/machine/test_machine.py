"""Settings and invitations of a machine."""

import pytest
import yaml

from controlplane.auth.pki import Authority
from netplane.config import Paths
from netplane.errors import ConfigError
from netplane.machine import before, joining, setup
from netplane.machine.invite import invite
from netplane.machine.uninstall import remove_files, uninstall

TOKEN = "abcdef.0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "server"),
    [
        (f"{TOKEN}@192.0.2.7", "https://192.0.2.7:6443"),
        (f"{TOKEN}@192.0.2.7:7443", "https://192.0.2.7:7443"),
        (f"{TOKEN}@[2001:db8::7]:7443", "https://[2001:db8::7]:7443"),
        (f"{TOKEN}@master.example", "https://master.example:6443"),
    ],
)
def test_an_invitation_names_token_and_server(text, server):
    invitation = joining.parse(text)
    assert (invitation.token, invitation.server) == (TOKEN, server)


@pytest.mark.parametrize(
    "text", ["", TOKEN, "@host", f"{TOKEN}@", f"{TOKEN}@host:port", f"{TOKEN}@host/path"]
)
def test_a_wrong_invitation_is_refused(text):
    with pytest.raises(ConfigError, match="cannot use --join"):
        joining.parse(text)


def test_merging_leaves_what_a_person_wrote(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text("nodeName: old\nmaxPods: 7\n")
    setup.merge(path, {"nodeName": "new"})
    assert yaml.safe_load(path.read_text()) == {"nodeName": "new", "maxPods": 7}
    path.write_text("- a list")
    with pytest.raises(ConfigError, match="it is a list, not a mapping"):
        setup.merge(path, {})


def test_only_a_control_plane_invites(tmp_path):
    with pytest.raises(ConfigError, match="this machine is no control plane"):
        invite(tmp_path)


def test_the_invitation_is_the_line_to_run(tmp_path):
    etc = Paths(tmp_path).etc
    setup.merge(etc / "controlplane.yaml", {"addresses": ["192.0.2.7"], "port": 7443})
    authority = Authority.create(etc / "pki")
    line = invite(tmp_path, TOKEN)
    assert line == f"netplane node --join {TOKEN}@192.0.2.7:7443 --ca-hash {authority.hash}"
    with pytest.raises(ConfigError, match="does not look like one"):
        invite(tmp_path, "secret")


def test_an_address_that_nobody_here_has_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot use --address 192\.0\.2\.7: no interface"):
        setup.choose_address(Paths(tmp_path), "192.0.2.7")
    with pytest.raises(ConfigError, match="it is not an IP address"):
        setup.choose_address(Paths(tmp_path), "here")


@pytest.mark.parametrize("name", ["Bad Name", "a_b", "-a", "a..b", "a" * 64, "a.", "ä"])
def test_a_name_that_no_node_can_have_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot use --name .*: a node's name is letters, digits"):
        setup.configure(tmp_path, setup.Role.ALL_IN_ONE, None, name)
    assert list(tmp_path.iterdir()) == []
    assert setup.node_name("N1.Example") == "n1.example"


def test_a_host_name_that_no_node_can_have_asks_for_another(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "my_host")
    with pytest.raises(ConfigError, match=r"cannot use the host name 'my_host' .* Choose one with --name"):
        setup.node_name(None)


def test_a_root_without_netplane_is_not_uninstalled(tmp_path, monkeypatch):
    """What is in the kernel is another root's."""
    monkeypatch.setattr("netplane.machine.uninstall.clear_kernel", lambda _paths: pytest.fail("the kernel"))
    with pytest.raises(ConfigError, match=f"cannot uninstall: nothing of netplane is under {tmp_path}"):
        uninstall(tmp_path, print)


def test_settings_of_the_kernel_are_noted_once(tmp_path):
    before.record(tmp_path)
    path = Paths(tmp_path).state / "before.json"
    assert '"net.ipv4.ip_forward"' in path.read_text()
    path.write_text("{}")
    before.record(tmp_path)
    assert path.read_text() == "{}"


def test_only_our_own_files_are_removed(tmp_path):
    paths = Paths(tmp_path)
    ours = [paths.etc / "node.yaml", paths.cni_conf_dir / "10-netplane.conflist", paths.state / "state.db"]
    others = [paths.cni_conf_dir / "20-other.conflist", paths.state / "labs/a/lab.json"]
    for path in (*ours, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    removed = list(remove_files(paths))
    assert str(paths.etc) in removed
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
    assert list(remove_files(paths)) == []


def test_nothing_is_left_of_a_root_that_was_all_ours(tmp_path):
    root = tmp_path / "root"
    paths = Paths(root)
    for directory in (paths.etc, paths.run, paths.state, paths.logs, paths.cni_bin_dir, paths.cni_conf_dir):
        directory.mkdir(parents=True)
    (paths.cni_bin_dir / "netplane").touch()
    list(remove_files(paths))
    assert list(root.iterdir()) == []
