"""The hello example as pods and outsiders meet it: names, addresses, and the speed of a change."""

import json
import sys

from tests.e2e.cluster.driver import Lab


def ask(lab: Lab, machine: str, url: str) -> dict[str, object]:
    answer = lab.exec(machine, "curl", "-sS", "-m", "5", url)
    return dict(json.loads(answer))


def test_requests_from_a_node_are_spread_over_all_pods(lab: Lab, service: str) -> None:
    pods = {str(ask(lab, "n1", service)["pod"]) for _ in range(9)}
    assert pods == {pod["metadata"]["name"] for pod in lab.pods("app=hello")}


def test_a_pod_calls_the_service_by_name_and_is_seen_by_its_own_address(lab: Lab, service: str) -> None:
    for pod in lab.pods("app=hello"):
        enter = (sys.executable, "-m", "netplane.lab.pod", pod["status"]["podIP"])
        inside = lab.exec(pod["spec"]["nodeName"], *enter, "curl", "-sS", "-m", "5", "http://hello/")
        answer = json.loads(inside)
        if answer["pod"] == pod["metadata"]["name"]:
            continue  # hairpin: the node's address stands in for the pod's own
        assert answer["client"] == pod["status"]["podIP"]


def test_every_nodes_port_answers_from_outside(lab: Lab, service: str) -> None:
    port = lab.get("service", "hello-nodeport")["spec"]["ports"][0]["nodePort"]
    for node in lab.get("nodes")["items"]:
        addresses = node["status"]["addresses"]
        address = next(entry["address"] for entry in addresses if entry["type"] == "InternalIP")
        assert ask(lab, "outside", f"http://{address}:{port}/")["pod"]


def test_a_write_reaches_the_listeners_and_is_exported(lab: Lab, service: str) -> None:
    """No time is asserted: that it is measured and exported is."""
    metrics = lab.exec("n1", "curl", "-sS", "http://127.0.0.1:10249/metrics")
    assert "kubeproxy_network_programming_duration_seconds_count" in metrics
    assert "kubeproxy_sync_proxy_rules_duration_seconds_count" in metrics
    traffic = [
        line for line in metrics.splitlines() if line.startswith("netplane_service_connections_total{")
    ]
    assert any('service="hello"' in line and not line.endswith(" 0.0") for line in traffic), traffic
    health = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:10256/healthz")
    assert lab.exec("n1", *health) == "200"
