"""Mistakes on a whole cluster: each is refused or named where its maker looks, and leaves nothing half-made."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from controlplane.auth.files import write_node
from controlplane.auth.pki import Authority
from tests.e2e.cluster.driver import Lab, eventually


def create(lab: Lab, obj: dict[str, Any]) -> str:
    return lab.kubectl("create", "-f", "-", stdin=json.dumps(obj), check=False)


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "netplane/echo"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": containers, **spec},
    }


def events_of(lab: Lab, name: str) -> list[str]:
    found = lab.get("events")["items"]
    return [f"{e['reason']}: {e['message']}" for e in found if e["involvedObject"]["name"] == name]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"restartPolicy": "Sometimes"}, 'spec.restartPolicy: Unsupported value: "Sometimes"'),
        ({"containers": []}, "spec.containers: Required value"),
        ({"containers": "echo"}, "spec.containers"),
        ({"containers": [{"name": "A_B", "image": "x"}]}, "spec.containers[0].name: Invalid value"),
    ],
)
def test_a_wrong_field_is_named(lab: Lab, change: dict[str, Any], complaint: str) -> None:
    assert complaint in create(lab, pod("wrong", **change))
    assert "NotFound" in lab.kubectl("get", "pod", "wrong", check=False)


def test_an_unknown_field_is_named(lab: Lab, tmp_path: Path) -> None:
    manifest = tmp_path / "pod.json"
    manifest.write_text(json.dumps(pod("unknown", restartPolcy="Never")))
    path = "/api/v1/namespaces/default/pods?fieldValidation=Strict"
    output = lab.kubectl("create", "--raw", path, "-f", str(manifest), check=False)
    assert 'unknown field "spec.restartPolcy"' in output
    assert "NotFound" in lab.kubectl("get", "pod", "unknown", check=False)


def test_an_image_that_cannot_be_run_is_said_in_the_pod(lab: Lab) -> None:
    body = pod("foreign")
    body["spec"]["containers"][0]["image"] = "nginx:1"
    try:
        create(lab, body)
        eventually(
            lambda: any("nginx:1" in e for e in events_of(lab, "foreign")), "an Event that names the image"
        )
        state = lab.get("pod", "foreign")["status"]["containerStatuses"][0]["state"]
        assert "nginx:1" in state["waiting"]["message"]
    finally:
        lab.kubectl("delete", "pod", "foreign", "--ignore-not-found")


def test_a_pod_that_fits_nowhere_says_so(lab: Lab) -> None:
    body = pod("giant")
    body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1000"}}
    try:
        create(lab, body)
        wanted = "0/3 nodes are available: 3 Insufficient cpu"
        eventually(
            lambda: any(wanted in e for e in events_of(lab, "giant")),
            lambda: f"{wanted!r} in {events_of(lab, 'giant')}",
        )
    finally:
        lab.kubectl("delete", "pod", "giant", "--ignore-not-found")


def test_a_service_without_endpoints_refuses(lab: Lab) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "nobody"},
        "spec": {"selector": {"app": "nobody"}, "ports": [{"port": 80}]},
    }
    try:
        create(lab, body)
        address = lab.get("service", "nobody")["spec"]["clusterIP"]
        for machine in ("n1", "n3"):
            output = lab.exec(
                machine, "curl", "-sSv", "-m", "3", f"http://{address}/", check=False, errors=True
            )
            assert "Connection refused" in output, output
    finally:
        lab.kubectl("delete", "service", "nobody", "--ignore-not-found")


def second_agent(lab: Lab, machine: str, root: Path, *, name: str, address: str) -> str:
    """Start another agent on ``machine``, with a certificate for ``name``; what it says and how it ends."""
    authority = Authority.load(Path(f"/var/lib/netplane/labs/{lab.name}/m1/etc/netplane/pki"))
    etc = root / "etc/netplane"
    write_node(etc, authority, node=name, addresses=[address], server="https://192.168.77.10:6443")
    config = {"nodeName": name, "nodeIP": address, "port": 11250, "metricsPort": 11255}
    (etc / "node.yaml").write_text(json.dumps(config))
    script = f"timeout 20 netplane node --root {root}; echo exit $?"
    command = lab.command("lab", "exec", "--name", lab.name, machine, "--", "sh", "-c", script)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_a_second_node_of_the_same_name_is_refused(lab: Lab, tmp_path: Path) -> None:
    output = second_agent(lab, "n2", tmp_path, name="n1", address="192.168.77.12")
    assert "exit 2" in output
    assert "n1" in output
    assert "cannot" in output


def test_a_second_node_of_the_same_address_is_refused(lab: Lab, tmp_path: Path) -> None:
    output = second_agent(lab, "n2", tmp_path, name="n8", address="192.168.77.12")
    assert "exit 2" in output
    assert "n2" in output
    assert "192.168.77.12" in output
    assert "NotFound" in lab.kubectl("get", "node", "n8", check=False)
