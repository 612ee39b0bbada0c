"""A node whose addresses are all given keeps its pods and stays Ready; only who comes next waits, and is told why."""

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster.driver import Lab, eventually, hello_is_whole, ready

FEW = 3


def create(lab: Lab, name: str, **spec: Any) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "full"}},
        "spec": {"containers": [{"name": "c", "image": "netplane/echo"}], **spec},
    }
    lab.kubectl("create", "-f", "-", stdin=json.dumps(body))


def condition(lab: Lab, kind: str) -> dict[str, Any]:
    found = lab.get("node", "n1")["status"]["conditions"]
    return next((c for c in found if c["type"] == kind), {})


def told(lab: Lab, name: str) -> str:
    found = [e for e in lab.get("events")["items"] if e["involvedObject"]["name"] == name]
    return "\n".join(f"{e['reason']}: {e['message']}" for e in found)


@pytest.fixture
def few_addresses(lab: Lab, service: str) -> Iterator[None]:
    """n1's pods are given addresses of a range of three from now on."""
    directory = Path(f"/var/lib/netplane/labs/{lab.name}/n1/etc/cni/net.d")
    document = json.loads((directory / "10-netplane.conflist").read_text())
    network = ipaddress.ip_network(lab.get("node", "n1")["spec"]["podCIDR"])
    document["name"] = "small"
    few = {"subnet": str(network), "rangeStart": str(network[200]), "rangeEnd": str(network[199 + FEW])}
    document["plugins"][0]["ipam"]["ranges"] = [[few]]
    small = directory / "05-small.conflist"
    small.with_suffix(".new").write_text(json.dumps(document))
    small.with_suffix(".new").rename(small)
    try:
        eventually(lambda: "small" in condition(lab, "Ready")["message"], "n1 says whose network it uses")
        yield
    finally:
        lab.kubectl("delete", "pods", "-l", "app=full", "--grace-period=0", "--force")
        small.unlink()
        eventually(lambda: hello_is_whole(lab), "hello as it was")


@pytest.mark.usefixtures("few_addresses")
def test_a_full_node_keeps_its_pods_and_says_why_the_next_one_waits(lab: Lab) -> None:
    hello = {pod["metadata"]["uid"] for pod in lab.pods("app=hello")}
    for number in range(FEW):
        create(lab, f"fits-{number}", nodeName="n1")
    eventually(lambda: sum(map(ready, lab.pods("app=full"))) == FEW, "as many pods as addresses")

    create(lab, "bound", nodeName="n1")  # past the scheduler
    eventually(
        lambda: "FailedCreatePodSandBox" in told(lab, "bound") and "every address of" in told(lab, "bound"),
        lambda: f"an Event that names the range; there is {told(lab, 'bound')!r}",
    )
    eventually(lambda: condition(lab, "NetworkUnavailable").get("status") == "True", "the node says so")
    assert "every address of" in condition(lab, "NetworkUnavailable")["message"]

    create(lab, "scheduled", nodeSelector={"kubernetes.io/hostname": "n1"})
    eventually(
        lambda: "node.kubernetes.io/network-unavailable" in told(lab, "scheduled"),
        lambda: f"the scheduler names the taint; there is {told(lab, 'scheduled')!r}",
    )
    create(lab, "elsewhere")
    eventually(lambda: ready(lab.get("pod", "elsewhere")), "a pod that may run anywhere runs on another node")

    assert condition(lab, "Ready")["status"] == "True"
    assert {pod["metadata"]["uid"] for pod in lab.pods("app=hello")} == hello
    assert all(ready(lab.get("pod", f"fits-{number}")) for number in range(FEW))

    lab.kubectl("delete", "pod", "fits-0", "fits-1", "--wait=true")
    for waiting in ("bound", "scheduled"):
        eventually(
            lambda name=waiting: ready(lab.get("pod", name)), f"{waiting} has an address that was freed"
        )
    lab.kubectl("delete", "pod", "fits-2", "--wait=true")
    eventually(lambda: condition(lab, "NetworkUnavailable")["status"] == "False", "the node takes pods again")
