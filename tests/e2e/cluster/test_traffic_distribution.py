"""A Service that prefers what is near, from the zones of nodes to whose pods answer on each."""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.cluster.driver import Lab, eventually, hello_is_whole

ZONE = "topology.kubernetes.io/zone"
ZONES = {"n1": "east", "n2": "east", "n3": "west"}
NEAR = """
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  selector: {app: hello}
  ports: [{port: 80, targetPort: 8080}]
"""


@pytest.fixture
def near(lab: Lab) -> Iterator[str]:
    """The ClusterIP of a Service for the hello pods, one on each node, with nodes in two zones."""
    eventually(lambda: hello_is_whole(lab), "hello whole", 90)
    for node, zone in ZONES.items():
        lab.kubectl("label", "node", node, f"{ZONE}={zone}")
    lab.kubectl("create", "-f", "-", stdin=NEAR)
    yield lab.get("service", "near")["spec"]["clusterIP"]
    lab.kubectl("delete", "service", "near")
    for node in ZONES:
        lab.kubectl("label", "node", node, f"{ZONE}-")


def nodes_of_answers(lab: Lab, machine: str, address: str) -> set[str]:
    """On which nodes the pods are that answer six requests from a machine."""
    apart = ("-s", "-m", "5", "-w", "\\n", "-H", "Connection: close")  # a connection each
    answers = lab.exec(machine, "curl", *apart, *[f"http://{address}/"] * 6, check=False).splitlines()
    return {json.loads(answer)["node"] for answer in answers if answer}


def test_traffic_stays_in_the_zone_or_on_the_node_as_the_service_wishes(lab: Lab, near: str) -> None:
    for wish, expected in (
        (None, {node: set(ZONES) for node in ZONES}),
        ("PreferClose", {"n1": {"n1", "n2"}, "n2": {"n1", "n2"}, "n3": {"n3"}}),
        ("PreferSameNode", {node: {node} for node in ZONES}),
        (None, {node: set(ZONES) for node in ZONES}),
    ):
        lab.kubectl("patch", "service", "near", "-p", json.dumps({"spec": {"trafficDistribution": wish}}))
        for node, answering in expected.items():

            def arrived(node: str = node, answering: set[str] = answering) -> bool:
                return nodes_of_answers(lab, node, near) == answering

            eventually(arrived, f"on {node}, with {wish}: only {sorted(answering)} answer", 20)


def test_a_wish_that_the_api_does_not_know_is_refused_by_name(lab: Lab, near: str) -> None:
    said = lab.kubectl(
        "patch", "service", "near", "-p", '{"spec": {"trafficDistribution": "Near"}}', check=False
    )
    assert 'spec.trafficDistribution: Unsupported value: "Near"' in said
    assert '"PreferClose", "PreferSameNode", "PreferSameZone"' in said
