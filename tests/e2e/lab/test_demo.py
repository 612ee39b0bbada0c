"""The demo as a user meets it, once, twice and interrupted."""

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from netplane.lab.down import down
from netplane.lab.spec import LABS
from tests.e2e.cluster.driver import Lab
from tests.e2e.lab.conftest import inhabitants, remains, start

LIMIT_SECONDS = 60.0


@pytest.fixture(scope="module")
def shown() -> Iterator[tuple[Lab, str]]:
    """A lab on which the demo has run, and what it printed."""
    lab = Lab(f"d{os.getpid() % 100000}")
    try:
        yield lab, demo(lab)
    finally:
        inside = inhabitants(lab.name)
        lab.down()
        assert remains(lab.name, inside) == []


def demo(lab: Lab, *options: str) -> str:
    began = time.monotonic()
    process = start("lab", "demo", "--name", lab.name, *options)
    output, errors = process.communicate(timeout=LIMIT_SECONDS * 2)
    assert process.returncode == 0, output + errors
    assert errors == ""  # progress is for terminals
    assert time.monotonic() - began < LIMIT_SECONDS
    return output


def test_the_demo_shows_who_answered_whom(shown: tuple[Lab, str]) -> None:
    lab, text = shown
    for node in ("n1", "n2", "n3"):
        assert f" on {node}" in text
    assert "http://hello.default.svc.cluster.local/" in text
    assert "outside the nodes" in text
    assert "no answer" not in text
    assert "HOP 1 " in text
    assert "VERDICT   WORKS" in text
    assert "ANSWER    HTTP 200 from pod default/hello-" in text
    assert f"export KUBECONFIG={lab.kubeconfig}" in text
    assert f"lab down --name {lab.name}" in text


@pytest.mark.parametrize(
    ("mode", "told"),
    [("nftables", "[nft inet netplane_services]"), ("ebpf", "[BPF maps of the node")],
)
def test_the_kernels_modes_are_shown_as_well(lab: Lab, mode: str, told: str) -> None:
    text = demo(lab, "--mode", mode)
    assert "VERDICT   WORKS" in text
    assert told in text
    assert "no answer" not in text


def test_it_may_be_shown_twice(shown: tuple[Lab, str]) -> None:
    lab, _text = shown
    before = sorted(pod["metadata"]["uid"] for pod in pods(lab))
    assert "VERDICT   WORKS" in demo(lab)
    assert sorted(pod["metadata"]["uid"] for pod in pods(lab)) == before


def pods(lab: Lab) -> list[dict[str, dict[str, str]]]:
    words = ("kubectl", "get", "pods", "-l", "app=hello", "-o", "json")
    return list(json.loads(lab.exec("outside", *words))["items"])


@pytest.mark.parametrize("seconds", [0.4, 1.5, 4.0, 7.0, 9.0])
def test_an_interrupted_demo_leaves_what_down_removes(seconds: float) -> None:
    name = f"i{os.getpid() % 100000}"
    process = start("lab", "demo", "--name", name)
    time.sleep(seconds)  # the moment is the test's parameter
    inside = inhabitants(name)
    process.terminate() if seconds > 5 else process.send_signal(2)
    _, errors = process.communicate(timeout=60)
    assert "netplane/lab/" not in errors
    down(name)
    assert remains(name, inside) == []


def test_keys_are_for_root_only(shown: tuple[Lab, str]) -> None:
    directory = LABS / shown[0].name
    secret = [*directory.rglob("*.key"), *directory.rglob("*kubeconfig"), *directory.rglob("*.sock")]
    assert len(secret) > 20
    readable = [path for path in secret if path.stat().st_mode & 0o077]
    assert [path for path in readable if path.suffix != ".sock"] == []
    listed = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "cat", str(secret[0])], check=False
    )
    assert listed.returncode != 0
