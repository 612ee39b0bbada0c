"""kube-proxy's configuration file as ours, and what it says that has no effect."""

import logging
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from netplane.errors import ConfigError
from proxy.agent import load_settings
from proxy.wanted import node_port_networks

# As kubeadm writes it.
KUBEADM = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: 32768
enableProfiling: false
healthzBindAddress: 0.0.0.0:10256
hostnameOverride: worker-1
iptables:
  masqueradeAll: false
kind: KubeProxyConfiguration
metricsBindAddress: "127.0.0.1:10349"
mode: iptables
nodePortAddresses: [primary]
"""


def test_a_file_of_kubeadm_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.conf"
    path.write_text(KUBEADM)
    with caplog.at_level(logging.WARNING):
        settings = load_settings(path, root=tmp_path)
    assert settings.node_name == "worker-1"
    assert settings.kubeconfig == Path("/var/lib/kube-proxy/kubeconfig.conf")
    assert settings.cluster_cidrs == (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))
    assert (settings.metrics_port, settings.health_port) == (10349, 10256)
    assert settings.node_port_addresses == ("primary",)
    assert settings.root == tmp_path
    assert settings.mode == "auto"
    assert "mode: iptables is served by mode auto" in caplog.text
    for key in ("bindAddress", "conntrack", "iptables"):
        assert f"{key}: has no effect" in caplog.text


def test_what_the_command_line_says_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.conf"
    path.write_text(KUBEADM)
    assert load_settings(path, mode=None).service_cidrs == (ip_network("10.96.0.0/12"),)
    assert "says nothing of the Service network: 10.96.0.0/12 is taken" in caplog.text
    caplog.clear()
    settings = load_settings(path, service_cidrs=("10.43.0.0/16",), cluster_cidrs=(), host_routing="bpf")
    assert settings.service_cidrs == (ip_network("10.43.0.0/16"),)
    assert (settings.cluster_cidrs, settings.host_routing) == ((), "bpf")
    assert "Service network" not in caplog.text


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("", "auto"),
        ('mode: ""', "auto"),
        ("mode: iptables", "auto"),
        ("mode: ipvs", "auto"),
        ("mode: nftables", "nftables"),
        ("mode: userspace", "userspace"),
        ("mode: ebpf", "ebpf"),
    ],
)
def test_a_mode_that_kube_proxy_has_alone_is_the_best_that_works(
    tmp_path: Path, said: str, mode: str
) -> None:
    path = tmp_path / "config.conf"
    path.write_text(f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{said}\n")
    assert load_settings(path).mode == mode


@pytest.mark.parametrize(
    ("line", "networks", "said"),
    [
        ("clusterCIDR: 10.0.0.1/8, fd00::/56", ["10.0.0.0/8", "fd00::/56"], ""),
        ('clusterCIDR: ""', [], "clusterCIDR: is empty, so only pods of this node"),
        ("detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8", [], ""),
        ("detectLocalMode: ClusterCIDR\nclusterCIDR: 10.0.0.0/8", ["10.0.0.0/8"], ""),
        (
            "detectLocalMode: BridgeInterface\nclusterCIDR: 10.0.0.0/8",
            ["10.0.0.0/8"],
            "BridgeInterface has no effect",
        ),
        ("mode: nftables", [], "clusterCIDR: is empty"),
    ],
)
def test_whose_pods_are_the_clusters(
    tmp_path: Path, line: str, networks: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.conf"
    path.write_text(f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{line}\n")
    settings = load_settings(path, service_cidrs=())
    assert [str(network) for network in settings.cluster_cidrs] == networks
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


@pytest.mark.parametrize("said", ["nodeName: Worker1", "nodeName: ' worker1 '", ""])
def test_node_objects_have_names_in_lower_case(
    tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "WORKER1")
    (tmp_path / "proxy.yaml").write_text(said)
    assert load_settings(tmp_path / "proxy.yaml").node == "worker1"


def test_our_own_file_is_read_as_before(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("nodeName: n1\nnodePortAddresses: [192.168.77.0/24]\n")
    assert load_settings(path, root=tmp_path).node_name == "n1"
    assert load_settings(tmp_path / "none.yaml").node_name == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("apiVersion: v2\nkind: KubeProxyConfiguration\n", "only kubeproxy.config.k8s.io/v1alpha1 is known"),
        (KUBEADM.replace("0.0.0.0:10256", "everywhere"), "healthzBindAddress 'everywhere'"),
        (KUBEADM.replace("[primary]", "[here]"), "here"),
        (KUBEADM.replace("10.244.0.0/16", "10.244"), "cannot read clusterCIDR '10.244,fd00"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.conf"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_settings(path)


def test_node_port_addresses() -> None:
    node = (ip_address("192.168.77.11"), ip_address("fd00:77::11"))
    assert node_port_networks([], node) == ()
    assert node_port_networks(["all", "10.0.0.0/8"], node) == ()
    assert node_port_networks(["primary"], node) == (
        ip_network("192.168.77.11/32"),
        ip_network("fd00:77::11/128"),
    )
    assert node_port_networks(["localhost", "10.0.0.5/8", "fd00::/8"], node) == (
        ip_network("127.0.0.0/8"),
        ip_network("::1/128"),
        ip_network("10.0.0.0/8"),
        ip_network("fd00::/8"),
    )


def test_node_port_addresses_of_one_ip_version_say_nothing_of_the_other() -> None:
    """As in kube-proxy's NewNodePortAddresses."""
    assert node_port_networks(["10.0.0.0/8"], ()) == (ip_network("10.0.0.0/8"), ip_network("::/0"))
    assert node_port_networks(["fd00::/8"], ()) == (ip_network("fd00::/8"), ip_network("0.0.0.0/0"))
