"""Prometheus as the README runs it beside a lab: the shipped configuration, and the README's questions."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster.driver import ROOT, Lab, eventually

PROMETHEUS = ROOT / ".cache/prometheus/usr/bin/prometheus"
pytestmark = pytest.mark.skipif(
    not PROMETHEUS.exists(), reason="Prometheus was not fetched by ./dev setup test"
)
Ask = Callable[[str], list[Any]]


@pytest.fixture
def ask(lab: Lab, tmp_path: Path) -> Iterator[Ask]:
    """Ask a Prometheus that runs in the lab's own network."""
    options = [f"--config.file={ROOT}/deploy/prometheus/lab.yml", f"--storage.tsdb.path={tmp_path}/data"]
    enter = lab.command("lab", "exec", "--name", lab.name, "outside", "--")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*enter, str(PROMETHEUS), *options, "--web.listen-address=127.0.0.1:9090"],
            stdout=log,
            stderr=log,
        )

    def answer(question: str) -> list[Any]:
        url = "http://127.0.0.1:9090/api/v1/query"
        said = lab.exec("outside", "curl", "-sS", "--data-urlencode", f"query={question}", url, check=False)
        return list(json.loads(said)["data"]["result"]) if said.startswith("{") else []

    try:
        yield answer
    finally:
        process.terminate()
        process.wait(20)


def carried(found: list[Any], service: str) -> bool:
    return any(row["metric"].get("service") == service and float(row["value"][1]) > 0 for row in found)


def test_prometheus_finds_every_node_and_what_services_carry(lab: Lab, service: str, ask: Ask) -> None:
    eventually(lambda: len(ask("up == 1")) == 6, lambda: f"six targets that are up: {ask('up')}")
    rate, throughput = re.findall(r"^sum .*netplane_.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    with lab.stream("n1", service) as report:
        eventually(lambda: carried(ask(rate), "hello"), "new connections a second")
        eventually(lambda: carried(ask(throughput), "hello"), "bytes a second")
    assert report.total
