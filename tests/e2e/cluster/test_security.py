"""Secure from the start: what a stranger gets, at every door of a cluster, is nothing but version and health."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.e2e.cluster.driver import Lab

OPEN = ("/version", "/healthz", "/livez", "/readyz")
CLOSED = (
    "/",
    "/api",
    "/apis",
    "/api/v1/namespaces",
    "/api/v1/pods",
    "/api/v1/namespaces/default/services/kubernetes",
    "/apis/apps/v1/deployments",
    "/openapi/v3",
    "/metrics",
    "/nothing/here",
)


def server_of(lab: Lab) -> str:
    document = yaml.safe_load(Path(lab.kubeconfig).read_text())
    return str(document["clusters"][0]["cluster"]["server"])


def ask(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(url, method=method, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("path", OPEN)
def test_version_and_health_are_open(lab: Lab, path: str) -> None:
    assert ask(server_of(lab) + path)[0] == 200


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_everything_else_wants_a_credential(lab: Lab, method: str, path: str) -> None:
    code, body = ask(server_of(lab) + path, method, b"{}" if method == "POST" else None)
    assert (code, json.loads(body)["reason"]) == (401, "Unauthorized")


def test_a_wrong_token_is_no_credential(lab: Lab) -> None:
    assert ask(server_of(lab) + "/api/v1/pods", Authorization="Bearer abcdef.0123456789abcdef")[0] == 401


def test_joining_wants_a_token(lab: Lab) -> None:
    body = json.dumps({"token": "abcdef.0123456789abcdef", "nodeName": "n9", "addresses": ["192.168.77.99"]})
    code, answer = ask(
        server_of(lab) + "/netplane/v1/join", "POST", body.encode(), **{"Content-Type": "application/json"}
    )
    assert code == 401
    assert b"certificate" not in answer


def test_the_only_listener_outside_is_the_api_on_loopback(lab: Lab) -> None:
    assert urlsplit(server_of(lab)).hostname == "127.0.0.1"


def agent(lab: Lab, machine: str, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        "curl",
        "-sk",
        "-m",
        "5",
        "-w",
        "\n%{http_code}",
        *options,
        f"https://192.168.77.11:10250{path}",
    ]
    return subprocess.run(
        [*lab.command("lab", "exec", "--name", lab.name, machine, "--"), *command],
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("path", ["/healthz", "/pods", "/containerLogs/default/x/y", "/"])
@pytest.mark.parametrize("machine", ["m1", "n1", "n2", "outside"])
def test_the_agent_answers_nobody_without_a_certificate(lab: Lab, machine: str, path: str) -> None:
    done = agent(lab, machine, path)
    code = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "000"
    assert code in ("000", "401", "403"), done.stdout


def test_the_agent_answers_the_api_server_only(lab: Lab) -> None:
    pki = f"/var/lib/netplane/labs/{lab.name}/m1/etc/netplane/pki"
    pair = ["--cert", f"{pki}/apiserver-kubelet-client.crt", "--key", f"{pki}/apiserver-kubelet-client.key"]
    done = agent(lab, "m1", "/pods", *pair)
    assert done.stdout.strip().endswith("200"), done.stdout + done.stderr
    other = f"/var/lib/netplane/labs/{lab.name}/n1/etc/netplane/pki"
    done = agent(lab, "m1", "/pods", "--cert", f"{other}/node.crt", "--key", f"{other}/node.key")
    assert done.stdout.strip().splitlines()[-1] in ("000", "401", "403"), done.stdout


@pytest.mark.parametrize(
    ("identity", "arguments", "allowed"),
    [
        ("proxy", ["get", "services"], True),
        ("proxy", ["delete", "service", "hello"], False),
        ("dns", ["get", "endpointslices"], True),
        ("dns", ["delete", "service", "hello"], False),
        ("node", ["get", "pods"], True),
        ("node", ["delete", "node", "n2"], False),
        ("node", ["create", "-f", "-"], False),
    ],
)
def test_each_daemon_may_do_its_own_work_only(
    lab: Lab, identity: str, arguments: list[str], allowed: bool
) -> None:
    kubeconfig = f"/var/lib/netplane/labs/{lab.name}/n1/etc/netplane/{identity}.kubeconfig"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x"},
        "spec": {"ports": [{"port": 1}]},
    }
    command = lab.command("lab", "exec", "--name", lab.name, "n1", "--")
    done = subprocess.run(
        [*command, lab.kubectl_path, "--kubeconfig", kubeconfig, *arguments],
        capture_output=True,
        text=True,
        input=json.dumps(service),
        timeout=60,
    )
    assert (done.returncode == 0) is allowed, done.stdout + done.stderr
    if not allowed:
        assert "Forbidden" in done.stderr or "forbidden" in done.stderr


def test_private_keys_are_their_owners_only(lab: Lab) -> None:
    find = [
        "find",
        f"/var/lib/netplane/labs/{lab.name}",
        "(",
        "-name",
        "*.key",
        "-o",
        "-name",
        "*.kubeconfig",
    ]
    done = subprocess.run([*find, ")", "-perm", "/077"], capture_output=True, text=True, check=True)
    assert done.stdout == ""
