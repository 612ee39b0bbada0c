"""Vagrant's trap: every machine's first interface has 10.0.2.15, and the default route leads through it to nowhere."""

from tests.e2e.cluster.driver import ROOT, Lab, eventually, ready


def test_nodes_are_known_by_the_address_that_routes_to_the_others(lab: Lab) -> None:
    lab.up("--nodes", "2", "--nat-interface")
    for machine in ("m1", "n1", "n2"):
        assert "10.0.2.15/24" in lab.exec(machine, "ip", "-br", "-4", "address", "show", "eth0")
        assert lab.exec(machine, "ip", "route", "show", "default").startswith("default via 10.0.2.2 dev eth0")

    chosen = {
        node["metadata"]["name"]: [
            a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"
        ]
        for node in lab.get("nodes")["items"]
    }
    assert chosen == {"n1": ["192.168.77.11"], "n2": ["192.168.77.12"]}
    [endpoint] = lab.get("endpointslice", "kubernetes")["endpoints"]
    assert endpoint["addresses"] == ["192.168.77.10"]

    # What is built on these addresses carries traffic: routes between nodes, a ClusterIP, and a NodePort.
    lab.kubectl("create", "-f", str(ROOT / "examples/hello.yaml"))
    eventually(lambda: sum(map(ready, lab.pods("app=hello"))) == 3, "three hello pods ready")
    assert {pod["status"]["hostIP"] for pod in lab.pods("app=hello")} == {"192.168.77.11", "192.168.77.12"}
    cluster_ip = lab.get("service", "hello")["spec"]["clusterIP"]
    for machine, url in (
        ("n1", f"http://{cluster_ip}/"),
        ("n2", f"http://{cluster_ip}/"),
        ("outside", "http://192.168.77.12:30080/"),
    ):
        answers = [lab.exec(machine, "curl", "-sS", "-m", "3", url) for _ in range(4)]
        assert all('"node": "n1"' in a or '"node": "n2"' in a for a in answers), answers
