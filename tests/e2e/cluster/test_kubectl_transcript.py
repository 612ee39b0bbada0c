"""kubectl as people use it: a recorded session of more than a hundred commands, with each version that we have.

`pytest tests/e2e/cluster/test_kubectl_transcript.py --record` writes tests/golden/kubectl.transcript anew. Read what
changed as you would read code: a wrong output that is recorded is a wrong output that is defended.
"""

import difflib
import platform
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.auth.pki import Authority
from tests.e2e.cluster.driver import KUBECTL, NEWER_KUBECTL, ROOT, Lab
from tests.e2e.cluster.transcript import Session, merged, parse, shell, transcript

TRANSCRIPT = ROOT / "tests/golden/kubectl.transcript"
MANIFESTS = ROOT / "tests/golden/kubectl"
# Each version has a namespace and a node of its own, so that both run at the same time on one lab.
VERSIONS = {"1.32": (KUBECTL, "shop132", "n2"), "1.36": (NEWER_KUBECTL, "shop136", "n3")}

pytestmark = [
    pytest.mark.skipif(not path.exists(), reason=f"kubectl {version} was not fetched by ./dev setup test")
    for version, (path, _, _) in VERSIONS.items()
]


WORD = "[bcdfghjklmnpqrstvwxz2456789]"  # what Kubernetes makes random names of


def volatile(
    namespace: str, node: str, port: str, server: str, directory: Path
) -> list[tuple[re.Pattern[str], str]]:
    """What differs from run to run, and what is written for it."""
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    rules = [
        (re.escape(server), "https://<server>"),
        (rf"{directory}/kubectl-edit-\d+", "/tmp/kubectl-edit-<n>"),
        (rf"\b{namespace}\b", "shop"),
        (rf"\b{port}\b", "<port>"),
        (rf"\b{node}\b", "<node>"),
        (r"\b192\.168\.\d+\.\d+\b", "<node-ip>"),
        (re.escape(platform.release()), "<kernel>"),
        (re.escape(system), "<os>"),
        (r"\b[0-9a-f]{32}\b", "<id>"),
        (r"^(  (?:cpu|memory): +)\d+", r"\1<n>"),
        (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "<token>"),
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uid>"),
        (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "<time>"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", "<time>"),
        (r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000", "<time>"),
        (r"^W\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\w+\.go):\d+", r"W<time> \1"),
        (r"(resourceVersion\"?: )\"\d+\"", r'\1"<rv>"'),
        (rf"\b(web|everywhere)-{WORD}{{6,10}}-{WORD}{{5}}\b", r"\1-<hash>-<pod>"),
        (rf"\b(web|everywhere)-{WORD}{{6,10}}\b", r"\1-<hash>"),
        (rf"\b(hash[=:]\"? ?\"?){WORD}{{6,10}}", r"\1<hash>"),
        (rf"\b(web|sums|everywhere|debugger)-{WORD}{{5}}\b", r"\1-<pod>"),
        (r"\b10\.244\.\d+\.\d+(?=/24)", "<pod-network>"),
        (r"\b10\.244\.\d+\.\d+\b", "<pod-ip>"),
        (r"\b10\.(9[6-9]|10\d|11[01])\.\d+\.\d+\b", "<cluster-ip>"),
        (r"\b3[0-2]\d{3}(?=/TCP|: provided)", "<node-port>"),
        (r"(?<!for )(?<!timeout=)\b\d+(d|h|m|s)(\d+(h|m|s))?\b", "<age>"),
    ]
    return [(re.compile(pattern, re.MULTILINE), word) for pattern, word in rules]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def session(lab: Lab, version: str, directory: Path, *, record: bool) -> Session:
    kubectl, namespace, node = VERSIONS[version]
    directory.mkdir()
    for manifest in MANIFESTS.iterdir():
        text = manifest.read_text().replace("$NODE", node)
        (directory / manifest.name).write_text(text)
    Authority.create(directory).issue_server("web", ["web"]).write(
        directory / "web.crt", directory / "web.key"
    )
    port = free_port()
    environment = shell(kubectl, directory, Path(lab.kubeconfig), NS=namespace, NODE=node, PORT=port)
    view = [str(kubectl), "--kubeconfig", lab.kubeconfig, "config", "view", "-o", "jsonpath={..server}"]
    server = subprocess.run(view, capture_output=True, text=True, check=True).stdout
    return Session(
        version, directory, environment, volatile(namespace, node, port, server, directory), record
    )


def test_kubectl_prints_what_is_written(lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    record = request.config.getoption("--record")
    steps = parse(TRANSCRIPT.read_text())
    sessions = [session(lab, version, tmp_path / version, record=record) for version in VERSIONS]
    with ThreadPoolExecutor(len(sessions)) as pool:
        printed = dict(zip(VERSIONS, pool.map(lambda each: each.run(steps), sessions), strict=True))
    if record:
        both = [{v: lines[i] for v, lines in printed.items()} for i in range(len(steps))]
        new = [replace(step, written=merged(lines)) for step, lines in zip(steps, both, strict=True)]
        TRANSCRIPT.write_text(transcript(new))
        return
    found = {
        version: transcript(
            replace(step, written=tuple(("", line) for line in lines))
            for step, lines in zip(steps, printed[version], strict=True)
        )
        for version in VERSIONS
    }
    differences = [
        line
        for version in VERSIONS
        for line in difflib.unified_diff(
            transcript(steps, version).splitlines(),
            found[version].splitlines(),
            "written",
            f"kubectl {version}",
            lineterm="",
            n=4,
        )
    ]
    assert not differences, "\n".join(differences)
