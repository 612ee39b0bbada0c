"""kubectl as a user runs it, against the lab's API."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster.driver import KUBECTL, Lab, eventually

pytestmark = pytest.mark.skipif(
    not KUBECTL.exists(), reason="kubectl 1.32 was not fetched by ./dev setup test"
)

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: netplane/echo}]
"""


def test_get_prints_kubectl_columns(lab: Lab) -> None:
    header = lab.kubectl("get", "nodes").splitlines()[0].split()
    assert header == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    wide = lab.kubectl("get", "pods", "-o", "wide", "-l", "app=hello").splitlines()
    assert wide[0].split()[:7] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]
    assert len(wide) == 4
    assert all("Running" in line for line in wide[1:])
    services = lab.kubectl("get", "svc").splitlines()
    assert any(line.startswith("kubernetes ") and "10.96.0.1" in line for line in services)


def test_create_scale_watch_delete(lab: Lab, tmp_path: Path) -> None:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(DEPLOYMENT)
    assert lab.kubectl("create", "-f", str(manifest)) == "deployment.apps/web created\n"
    eventually(lambda: available(lab) == 2, "two replicas")
    assert lab.kubectl("scale", "deployment", "web", "--replicas=4") == "deployment.apps/web scaled\n"
    eventually(lambda: available(lab) == 4, "four replicas")
    assert lab.kubectl("delete", "deployment", "web") == 'deployment.apps "web" deleted\n'
    eventually(lambda: not lab.pods("app=web"), "the pods collected")


def available(lab: Lab) -> int:
    return int(lab.get("deployment", "web")["status"].get("availableReplicas", 0))


def test_watch_prints_changes_as_they_come(lab: Lab) -> None:
    command = [str(KUBECTL), "--kubeconfig", lab.kubeconfig, "get", "namespaces", "-w", "--no-headers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        try:
            assert watch.stdout is not None
            lab.kubectl("create", "-f", "-", stdin=namespace("watched"))
            lines = iter(watch.stdout.readline, "")
            assert next(line for line in lines if line.startswith("watched ")).split()[1] == "Active"
            lab.kubectl("delete", "namespace", "watched")
            assert "Terminating" in next(line for line in lines if "Terminating" in line)
        finally:
            watch.kill()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["get", "pod", "nobody"], 'Error from server (NotFound): pods "nobody" not found'),
        (["get", "widgets"], "the server doesn't have a resource type"),
        (["get", "pods", "-l", "a in ("], "unable to parse"),
        (["scale", "deployment", "hello", "--replicas=-1"], "replicas"),
    ],
)
def test_mistakes_get_kubernetes_words(lab: Lab, arguments: list[str], complaint: str) -> None:
    assert complaint in lab.kubectl(*arguments, check=False)


def namespace(name: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("default", 'namespaces "default" already exists'), ("Not_A_Name", "metadata.name: Invalid value")],
)
def test_wrong_names_get_kubernetes_words(lab: Lab, name: str, complaint: str) -> None:
    created = lab.kubectl("create", "-f", "-", stdin=namespace(name), check=False)
    assert complaint in created


def test_taken_nodeport_is_named(lab: Lab, tmp_path: Path) -> None:
    port = lab.get("service", "hello-nodeport")["spec"]["ports"][0]["nodePort"]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "second"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]},
    }
    manifest = tmp_path / "second.json"
    manifest.write_text(json.dumps(service))
    output = lab.kubectl("create", "-f", str(manifest), check=False)
    assert f"spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated" in output
    assert "NotFound" in lab.kubectl("get", "service", "second", check=False)
