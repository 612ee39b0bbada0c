"""`netplane proxy --kubeconfig` on a real Kubernetes API server: nothing here is ours but the proxy."""

import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import flows
from tests.netns.proxy.daemon import Supervisor, eventually, visit
from tests.real_kubernetes import SERVICES, SLICES, TOKEN, Kubernetes, missing

pytestmark = [
    pytest.mark.netns,
    pytest.mark.long,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


@pytest.fixture
def kubernetes(world, tmp_path) -> Iterator[Kubernetes]:
    made = Kubernetes(tmp_path / "kubernetes", world.netns["outside"], flows.OUTSIDE_ADDRESS)
    try:
        made.start()
        node = {"metadata": {"name": "n1"}, "spec": {"podCIDRs": [flows.POD_CIDRS["n1"]]}}
        node["spec"]["podCIDR"] = flows.POD_CIDRS["n1"]  # type: ignore[index]
        made.put("/api/v1/nodes", node)
        addresses = [{"type": "InternalIP", "address": flows.NODES["n1"]}]
        found = made.request("GET", "/api/v1/nodes/n1")[1] | {"status": {"addresses": addresses}}
        assert made.request("PUT", "/api/v1/nodes/n1/status", found)[0] == 200
        yield made
    finally:
        made.close()


@pytest.fixture
def served(world, start, kubernetes, tmp_path) -> Iterator[Supervisor]:
    start()  # so that every trace in n1 is removed at the end
    made = Supervisor(world, tmp_path)
    kubernetes.kubeconfig(made.root / "etc/netplane/proxy.kubeconfig")
    kubernetes.put(SERVICES, flows.service("web", "10.96.0.10"))
    kubernetes.put(SLICES, v1beta1("web", "web1", "web2"))
    made.start()
    eventually(lambda: visit(world) in ("web1", "web2"))
    yield made
    made.close()


def v1beta1(name: str, *pods: str) -> dict[str, Any]:
    """As controllers of that version write it: the node is a word of the topology."""
    made = flows.endpoint_slice(name, *pods)
    for endpoint in made["endpoints"]:
        endpoint["topology"] = {"kubernetes.io/hostname": endpoint.pop("nodeName")}
    return made


def test_services_and_endpoints_are_followed(world, kubernetes, served) -> None:
    assert {visit(world) for _ in range(8)} == {"web1", "web2"}
    kubernetes.put(SLICES, v1beta1("web", "web2"))
    eventually(lambda: [visit(world) for _ in range(4)] == ["web2"] * 4)
    kubernetes.put(SERVICES, flows.service("other", "10.96.0.11", 81))
    kubernetes.put(SLICES, v1beta1("other", "web1"))
    eventually(lambda: visit(world, "10.96.0.11", 81) == "web1")
    kubernetes.delete(SERVICES, "web")
    with pytest.raises(ConnectionRefusedError):
        eventually(lambda: visit(world) == "never")
    assert "trying discovery.k8s.io/v1beta1" in served.log.read_text()


def test_policy_local_goes_by_the_node_of_an_old_slice(world, kubernetes, served) -> None:
    """Which endpoints are on this node is in the slice's topology here, and nowhere else."""
    kubernetes.put(SERVICES, flows.service("web", "10.96.0.10", internalTrafficPolicy="Local"))
    kubernetes.put(SLICES, v1beta1("web", "web1", "remote"))
    kubernetes.put(
        SERVICES,
        flows.service("local", "10.96.0.12", 82, node_port=31082, externalTrafficPolicy="Local"),
    )
    kubernetes.put(SLICES, v1beta1("local", "web1", "remote"))

    def from_outside() -> str:
        with world.connect("outside", flows.NODES["n1"], 31082) as sock, sock.makefile("rb") as stream:
            return stream.readline().decode().split()[0]

    eventually(lambda: [from_outside() for _ in range(6)] == ["web1"] * 6)


def test_the_api_server_is_reached_by_its_own_service(world, kubernetes, served) -> None:
    """10.96.0.1:443, whose endpoints the API server writes itself."""

    def version() -> str:
        whoami = f"Authorization: Bearer {TOKEN}"
        command = ["curl", "-sk", "--max-time", "5", "-H", whoami, "https://10.96.0.1/version"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    eventually(lambda: "gitVersion" in world.run("client", version), seconds=30)


def test_an_api_server_that_is_away_and_has_forgotten_changes_nothing(world, kubernetes, served) -> None:
    """It comes back with history compacted: what was watched cannot be continued, and is listed again."""
    before = kubernetes.revision()
    kubernetes.stop()
    assert visit(world) in ("web1", "web2")
    kubernetes.start()
    kubernetes.put(SLICES, v1beta1("web", "web2"))
    eventually(lambda: [visit(world) for _ in range(4)] == ["web2"] * 4, seconds=60)
    kubernetes.wait_until_forgotten(before)
    served.end(signal.SIGTERM)
    kubernetes.put(SLICES, v1beta1("web", "web1"))
    served.start()
    eventually(lambda: [visit(world) for _ in range(4)] == ["web1"] * 4, seconds=60)
