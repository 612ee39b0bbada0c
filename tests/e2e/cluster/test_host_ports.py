"""What a pod asks of its node beyond an address: ports of the node that lead to it, and limits of its bandwidth."""

import json
import sys
from typing import Any

import pytest

from tests.e2e.cluster.driver import Lab, eventually, ready

PORT, LABEL = 18080, "host-ports"


def create(lab: Lab, name: str, **annotations: str) -> None:
    """A pod on n1 that wants the node's port, for TCP and for UDP."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": LABEL}, "annotations": annotations},
        "spec": {
            "nodeName": "n1",  # past the scheduler, which would leave a second one waiting
            "containers": [
                {
                    "name": "c",
                    "image": "netplane/echo",
                    "ports": [
                        {"containerPort": 8080, "hostPort": PORT},
                        {"containerPort": 8081, "hostPort": PORT, "protocol": "UDP"},
                    ],
                }
            ],
        },
    }
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def told(lab: Lab, name: str) -> str:
    found = [e for e in lab.get("events")["items"] if e["involvedObject"]["name"] == name]
    return "\n".join(f"{e['reason']}: {e['message']}" for e in found)


def answers(lab: Lab, machine: str, address: str, *enter: str) -> str:
    """The pod that answers at the port of ``address``, "" where none does."""
    answer = lab.exec(machine, *enter, "curl", "-sS", "-m", "5", f"http://{address}:{PORT}/", check=False)
    return str(json.loads(answer)["pod"]) if answer.startswith("{") else ""


ASK_UDP = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
client.connect((sys.argv[1], int(sys.argv[2])))
client.send(b"hello")
print(client.recv(1000).decode())
"""


@pytest.fixture
def node(lab: Lab, service: str):
    """n1's address."""
    addresses = lab.get("node", "n1")["status"]["addresses"]
    yield next(entry["address"] for entry in addresses if entry["type"] == "InternalIP")
    lab.kubectl("delete", "pods", "-l", f"app={LABEL}", "--grace-period=0", "--force")


def test_a_host_port_from_everywhere_its_conflict_and_its_end(lab: Lab, node: str) -> None:
    create(lab, "first")
    eventually(lambda: ready(lab.get("pod", "first")), lambda: f"the pod is ready; {told(lab, 'first')}")
    assert answers(lab, "outside", node) == "first"
    assert answers(lab, "n1", node) == answers(lab, "n1", "127.0.0.1") == answers(lab, "n2", node) == "first"
    hello = next(pod for pod in lab.pods("app=hello") if pod["spec"]["nodeName"] == "n2")
    enter = (sys.executable, "-m", "netplane.lab.pod", hello["status"]["podIP"])
    assert answers(lab, "n2", node, *enter) == "first", "a pod of another node"
    assert "first" in lab.exec("outside", sys.executable, "-c", ASK_UDP, node, str(PORT))

    create(lab, "second")
    eventually(
        lambda: f"port *:{PORT}/tcp of the node is taken" in told(lab, "second"),
        lambda: f"an Event that names the port; there is {told(lab, 'second')!r}",
    )
    assert "FailedCreatePodSandBox" in told(lab, "second")
    assert answers(lab, "outside", node) == "first"
    lab.kubectl("delete", "pod", "first", "--wait=true")
    eventually(lambda: ready(lab.get("pod", "second")), "the second has the port once it is free")
    assert answers(lab, "outside", node) == "second"


def test_bandwidth_by_annotation(lab: Lab, node: str) -> None:
    limits = {"kubernetes.io/ingress-bandwidth": "20M", "kubernetes.io/egress-bandwidth": "10M"}
    create(lab, "limited", **limits)
    eventually(lambda: ready(lab.get("pod", "limited")), lambda: f"ready; {told(lab, 'limited')}")
    address = lab.get("pod", "limited")["status"]["podIP"]
    link = lab.exec("n1", "ip", "-o", "route", "get", address).split(" dev ")[1].split()[0]
    assert "rate 20Mbit" in lab.exec("n1", "tc", "qdisc", "show", "dev", link)
    inside = (sys.executable, "-m", "netplane.lab.pod", address, "tc", "qdisc", "show", "dev", "eth0")
    assert "rate 10Mbit" in lab.exec("n1", *inside)
    create(lab, "wrong", **{"kubernetes.io/ingress-bandwidth": "fast"})
    eventually(
        lambda: "annotation kubernetes.io/ingress-bandwidth" in told(lab, "wrong"),
        lambda: f"an Event that names the annotation; there is {told(lab, 'wrong')!r}",
    )
