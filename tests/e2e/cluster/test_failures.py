"""What breaks, breaks alone: each failure under a steady stream of requests, and what the stream lost.

A test that allows a loss states the bound and the reason.
"""

import re
import time
from typing import Any

from tests.e2e.cluster.driver import Lab, eventually, hello_is_whole, ready


def a_pod_elsewhere(lab: Lab) -> dict[str, Any]:
    """A pod on another node than the stream's, n1."""
    return next(pod for pod in lab.pods("app=hello") if pod["spec"]["nodeName"] != "n1")


def addresses(lab: Lab) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in lab.pods("app=hello")}


def restarts(lab: Lab) -> int:
    return sum(pod["status"]["containerStatuses"][0]["restartCount"] for pod in lab.pods("app=hello"))


def test_a_deleted_pod_is_replaced_and_no_request_is_lost(lab: Lab, service: str) -> None:
    victim = a_pod_elsewhere(lab)["metadata"]["name"]
    with lab.stream("n1", service) as report:
        lab.kubectl("delete", "pod", victim)
        eventually(lambda: victim not in addresses(lab) and hello_is_whole(lab), "a replacement", 60)
    assert report.failures == []
    assert report.total > 20


def test_a_killed_container_is_restarted(lab: Lab, service: str) -> None:
    """Bound: requests that the killed process had already accepted, at this rate at most two."""
    before = restarts(lab)
    pod = a_pod_elsewhere(lab)
    with lab.stream("n1", service) as report:
        # The container's process as its node sees it: the echo program whose environment names the pod.
        script = f"grep -lz NETPLANE_POD={pod['metadata']['name']} /proc/[0-9]*/environ | cut -d/ -f3 | xargs kill -9"
        lab.exec(pod["spec"]["nodeName"], "sh", "-c", script, check=False)
        eventually(lambda: restarts(lab) > before and hello_is_whole(lab), "a restart", 60)
    assert len(report.failures) <= 2, report.failures
    assert addresses(lab)[pod["metadata"]["name"]] == pod["status"]["podIP"]


def test_pods_outlive_their_agent(lab: Lab, service: str) -> None:
    before, restarted = addresses(lab), restarts(lab)
    with lab.stream("n1", service) as report:
        for node in ("n1", "n2", "n3"):
            lab.exec(node, "netplane", "supervise", "kill", "node")
        eventually(lambda: agents_run(lab), "all agents back", 60)
        eventually(lambda: hello_is_whole(lab), "all ready", 60)
    assert report.failures == []
    assert addresses(lab) == before
    assert restarts(lab) == restarted


def test_a_node_that_was_silent_for_a_moment_serves_again(lab: Lab, service: str) -> None:
    """Silent for longer than the grace period, back before its pods are evicted: nothing is replaced."""
    before, machine = addresses(lab), "n2"
    lab.exec(machine, "netplane", "supervise", "kill", "node", "--signal", "19")  # SIGSTOP
    try:
        eventually(lambda: not ready(lab.get("node", machine)), "n2 unreachable", 30)
    finally:
        lab.exec(machine, "netplane", "supervise", "kill", "node", "--signal", "18")  # SIGCONT
    eventually(lambda: hello_is_whole(lab), "all pods ready again", 30)
    kept = set(before.items()) & set(addresses(lab).items())
    assert len(kept) >= 2, "pods of the other nodes are left alone"


def test_a_lost_route_to_another_node_comes_back(lab: Lab, service: str) -> None:
    """The node finds out by itself, and says what it did."""
    (network,) = lab.get("node", "n1")["spec"]["podCIDRs"]
    assert network in lab.exec("n2", "ip", "route", "show", "proto", "98")
    lab.exec("n2", "ip", "route", "del", network)
    eventually(lambda: network in lab.exec("n2", "ip", "route", "show", "proto", "98"), "the route", 20)
    pod = next(pod for pod in lab.pods("app=hello") if pod["spec"]["nodeName"] == "n1")
    assert lab.exec("n2", "curl", "-sS", "-m", "5", f"http://{pod['status']['podIP']}:8080/")


def agents_run(lab: Lab) -> bool:
    return all(
        lab.exec(node, "netplane", "supervise", "status", "-o", "json").count('"running"') >= 4
        for node in ("n1", "n2", "n3")
    )


def test_a_restarted_proxy_refuses_nobody(lab: Lab, service: str) -> None:
    """Its workers go on, whichever way it ends."""
    with lab.stream("n1", service) as report:
        time.sleep(1)
        lab.exec("n1", "netplane", "supervise", "restart", "proxy")
        time.sleep(1)
        lab.exec("n1", "netplane", "supervise", "kill", "proxy")
        eventually(lambda: hello_is_whole(lab), "all ready", 30)
        time.sleep(1)
    assert report.failures == []


def test_nothing_notices_that_the_api_server_is_away(lab: Lab, service: str, echo: str) -> None:
    before = addresses(lab)
    assert silence(lab) < 15, "heard of it not long ago"
    with (
        lab.streams("n1", echo, 81, 50) as streams,
        lab.stream("n1", service, rate=20) as inside,
        lab.stream("outside", nodeport(lab), rate=20) as outside,
    ):
        lab.exec("m1", "netplane", "supervise", "stop", "controlplane")
        try:
            time.sleep(30)  # half of the minute that the test is about, not a synchronisation
            said = lab.exec("n1", "netplane", "status", check=False)
            assert re.search(r"heard of the API server [2-4]\d s ago", said), said
            assert 20 < silence(lab) < 50
            lab.exec("n1", "netplane", "supervise", "restart", "proxy")  # it starts from what it kept on disk
            time.sleep(30)
            said = lab.exec("n1", "netplane", "status", check=False)
            assert "heard of the API server not yet since it was started" in said
            assert silence(lab) == -1
        finally:
            lab.exec("m1", "netplane", "supervise", "start", "controlplane")
        eventually(lambda: hello_is_whole(lab), "the API back", 60)
        eventually(lambda: 0 <= silence(lab) < 15, "heard of it again")
    assert streams.failures == []
    assert streams.exchanges > 50 * 60, "none stood still"
    assert inside.failures == []
    assert outside.failures == []
    assert addresses(lab) == before


def silence(lab: Lab) -> float:
    """How long n1's proxy has heard nothing of the API server, as Prometheus is told; -1: it never did."""
    page = lab.exec("n1", "curl", "-sS", "http://127.0.0.1:10249/metrics")
    found = re.search(r"^netplane_proxy_api_silent_seconds (\S+)$", page, re.MULTILINE)
    assert found is not None
    return float(found[1])


def nodeport(lab: Lab) -> str:
    port = lab.get("service", "hello-nodeport")["spec"]["ports"][0]["nodePort"]
    address = next(
        entry["address"]
        for entry in lab.get("node", "n1")["status"]["addresses"]
        if entry["type"] == "InternalIP"
    )
    return f"http://{address}:{port}/"


def test_a_dead_node_is_left_and_its_pods_start_elsewhere(lab: Lab, service: str) -> None:
    """Bound: requests that the dead node's pod had accepted when the power went, at this rate at most two.

    Requests that meet the dead endpoint later are dialled again elsewhere within the proxy's deadline.
    """
    try:
        with lab.stream("n1", service) as report:
            lab.netplane("lab", "kill", "--name", lab.name, "n3")
            eventually(lambda: three_ready_elsewhere(lab, "n3"), "three ready pods on the other nodes", 90)
    finally:
        lab.netplane("lab", "start", "--name", lab.name, "n3")
    eventually(lambda: all(map(ready, lab.get("nodes")["items"])), "n3 back and Ready", 60)
    assert len(report.failures) <= 2, report.failures
    assert report.slowest < 5


def three_ready_elsewhere(lab: Lab, dead: str) -> bool:
    pods = [pod for pod in lab.pods("app=hello") if pod["spec"].get("nodeName") != dead]
    return sum(map(ready, pods)) >= 3
