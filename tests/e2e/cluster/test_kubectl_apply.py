"""kubectl apply and its relatives, as a user types them: what they print, and what the cluster then has."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster.driver import KUBECTL, Lab

pytestmark = pytest.mark.skipif(
    not KUBECTL.exists(), reason="kubectl 1.32 was not fetched by ./dev setup test"
)

NAMESPACE = "applying"
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: netplane/echo
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web, labels: {app: web}}
data: {a: b}
"""


class Kubectl:
    """kubectl in one namespace of the lab."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab, self.manifest = lab, directory / "web.yaml"
        self.manifest.write_text(WEB)

    def __call__(self, *arguments: str, **options) -> str:
        return self._lab.kubectl("-n", NAMESPACE, *arguments, **options)

    def change(self, *replacements: tuple[str, str]) -> None:
        text = self.manifest.read_text()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        self.manifest.write_text(text)

    def apply(self, *options: str, check: bool = True) -> list[str]:
        return self("apply", "-f", str(self.manifest), *options, check=check).splitlines()

    def path(self, what: str, path: str) -> str:
        return self("get", what, "-o", f"jsonpath={{{path}}}")


@pytest.fixture
def kubectl(lab: Lab, tmp_path: Path) -> Iterator[Kubectl]:
    lab.kubectl("create", "namespace", NAMESPACE)
    try:
        yield Kubectl(lab, tmp_path)
    finally:
        lab.kubectl("delete", "namespace", NAMESPACE)


ENV = ".spec.template.spec.containers[0].env[*].value"


def test_apply_creates_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    created = kubectl.apply()
    assert created == ["deployment.apps/web created", "service/web created", "configmap/web created"]
    assert all(line.endswith(" unchanged") for line in kubectl.apply())
    kubectl.change(('{name: A, value: "1"}, ', ""), ("replicas: 1", "replicas: 2"), ("{a: b}", "{a: c}"))
    assert kubectl.apply("--dry-run=server")[0] == "deployment.apps/web configured (server dry run)"
    assert kubectl.path("deploy/web", ".spec.replicas") == "1"
    changed = kubectl.apply()
    assert changed == ["deployment.apps/web configured", "service/web unchanged", "configmap/web configured"]
    assert kubectl.path("deploy/web", ENV) == "2"
    assert kubectl.path("deploy/web", ".spec.replicas") == "2"
    assert 'value: "2"' in kubectl("apply", "view-last-applied", "deploy/web")


def test_apply_keeps_what_others_wrote_and_prune_removes_what_is_gone(kubectl: Kubectl) -> None:
    kubectl.apply()
    kubectl("label", "deploy/web", "tier=front")
    kubectl("scale", "deploy/web", "--replicas=2")
    kubectl.manifest.write_text(WEB.split("---")[0].replace("  replicas: 1\n", ""))
    pruned = kubectl.apply("--prune", "-l", "app=web")
    assert set(pruned) >= {"deployment.apps/web configured", "service/web pruned", "configmap/web pruned"}
    assert kubectl.path("deploy/web", ".metadata.labels.tier") == "front"


def test_diff_shows_the_difference_and_changes_nothing(lab: Lab, kubectl: Kubectl) -> None:
    kubectl.apply()
    version = kubectl.path("deploy/web", ".metadata.generation")
    for options in ([], ["--server-side"]):
        kubectl.manifest.write_text(WEB)
        kubectl.change(('value: "1"', 'value: "9"'))
        command = [str(KUBECTL), "--kubeconfig", lab.kubeconfig, "-n", NAMESPACE, "diff", *options]
        done = subprocess.run([*command, "-f", str(kubectl.manifest)], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        changed = [line for line in done.stdout.splitlines() if line[1:].split()[:1] == ["value:"]]
        assert [line.split() for line in changed if line[0] in "+-"] == [
            ["-", "value:", '"1"'],
            ["+", "value:", '"9"'],
        ]
    assert kubectl.path("deploy/web", ".metadata.generation") == version


def test_server_side_apply_owns_conflicts_and_removes(kubectl: Kubectl) -> None:
    assert kubectl.apply("--server-side")[0] == "deployment.apps/web serverside-applied"
    kubectl("set", "env", "deploy/web", "B=7")
    refused = "\n".join(kubectl.apply("--server-side", check=False))
    field = '.spec.template.spec.containers[name="web"].env[name="B"].value'
    assert 'Apply failed with 1 conflict: conflict with "kubectl-set" using apps/v1' in refused
    assert field in refused
    assert kubectl.path("deploy/web", ENV) == "1 7"
    kubectl.apply("--server-side", "--force-conflicts")
    assert kubectl.path("deploy/web", ENV) == "1 2"
    kubectl.change(('{name: A, value: "1"}, ', ""))
    kubectl.apply("--server-side")
    assert kubectl.path("deploy/web", ENV) == "2"
    managers = kubectl("get", "deploy/web", "-o", "yaml", "--show-managed-fields")
    assert "manager: kubectl\n    operation: Apply" in managers


def test_client_side_apply_goes_over_to_the_server(kubectl: Kubectl) -> None:
    kubectl.apply()
    kubectl.change(('value: "1"', 'value: "5"'))
    assert kubectl.apply("--server-side")[0] == "deployment.apps/web serverside-applied"
    assert kubectl.path("deploy/web", ENV) == "5 2"


def test_strict_validation_names_unknown_and_repeated_fields(kubectl: Kubectl) -> None:
    kubectl.change(("  replicas: 1\n", "  replicas: 1\n  replica: 2\n"))
    refused = "\n".join(kubectl.apply(check=False))
    assert 'strict decoding error: unknown field "spec.replica"' in refused
    warned = "\n".join(kubectl.apply("--validate=warn", check=False))
    assert "deployment.apps/web created" in warned
    assert kubectl.path("deploy/web", ".spec.replica") == ""


def test_patch_in_each_form(kubectl: Kubectl) -> None:
    kubectl.apply()
    strategic = '{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"B","$patch":"delete"}]}]}}}}'
    assert kubectl("patch", "deploy/web", "-p", strategic) == "deployment.apps/web patched\n"
    assert kubectl.path("deploy/web", ENV) == "1"
    kubectl("patch", "deploy/web", "--type=merge", "-p", '{"metadata":{"labels":{"app":null,"x":"y"}}}')
    assert kubectl.path("deploy/web", ".metadata.labels") == '{"x":"y"}'
    operations = '[{"op":"replace","path":"/spec/replicas","value":0}]'
    kubectl("patch", "deploy/web", "--type=json", "-p", operations)
    assert kubectl.path("deploy/web", ".spec.replicas") == "0"
    assert "(no change)" in kubectl("patch", "deploy/web", "--type=json", "-p", operations)
    status = '{"status":{"observedGeneration":99}}'
    kubectl("patch", "configmap/web", "-p", '{"data":{"c":"d"}}')
    assert kubectl.path("configmap/web", ".data") == '{"a":"b","c":"d"}'
    assert "patched" in kubectl("patch", "deploy/web", "--subresource=status", "--type=merge", "-p", status)
