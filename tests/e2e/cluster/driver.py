"""A lab as a user drives it: the command and kubectl, nothing else."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).parents[3]
NETPLANE = str(Path(sys.executable).parent / "netplane")
KUBECTL = ROOT / ".cache/kubectl/usr/bin/kubectl"
NEWER_KUBECTL = ROOT / ".cache/kubectl-1.36/kubectl"
STREAM = str(Path(__file__).parent / "stream.py")
STREAMS = str(Path(__file__).parent / "streams.py")


@dataclass
class Report:
    """What a stream of requests saw."""

    answers: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.answers.values())


@dataclass
class Streams:
    """What echo streams saw: exchanges, the longest one in seconds, and why any failed."""

    exchanges: int = 0
    longest: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass
class Lab:
    """A running lab, by name."""

    name: str

    kubectl_path = str(KUBECTL)

    def command(self, *arguments: str) -> list[str]:
        return [NETPLANE, *arguments]

    def netplane(
        self, *arguments: str, check: bool = True, errors: bool = False, timeout: float = 120
    ) -> str:
        command = [NETPLANE, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if errors else "")

    def up(self, *options: str) -> None:
        self.netplane("lab", "up", "--name", self.name, *options)

    def down(self) -> None:
        self.netplane("lab", "down", "--name", self.name)

    def exec(self, machine: str, *command: str, check: bool = True, errors: bool = False) -> str:
        enter = ("lab", "exec", "--name", self.name, machine, "--")
        return self.netplane(*enter, *command, check=check, errors=errors)

    @cached_property
    def kubeconfig(self) -> str:
        """Its path; asked for once, as it is the same for every lab of this name."""
        return self.netplane("lab", "kubeconfig", "--name", self.name).strip()

    def kubectl(self, *arguments: str, check: bool = True, stdin: str | None = None) -> str:
        command = [str(KUBECTL), "--kubeconfig", self.kubeconfig, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, input=stdin)
        if check and done.returncode != 0:
            raise AssertionError(
                f"kubectl {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout + ("" if check else done.stderr)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def pods(self, selector: str) -> list[Any]:
        return list(self.get("pods", "-l", selector)["items"])

    @contextmanager
    def stream(self, machine: str, url: str, rate: float = 40) -> Iterator[Report]:
        """Requests flow while the block runs; the report is complete after it."""
        with self._load(machine, Report(), STREAM, url, str(rate)) as report:
            yield report

    @contextmanager
    def streams(self, machine: str, address: str, port: int, count: int) -> Iterator[Streams]:
        """So many echo connections exchange bytes while the block runs, all summed by SHA-256; then the report is
        complete."""
        with self._load(machine, Streams(), STREAMS, address, str(port), str(count)) as report:
            yield report

    @contextmanager
    def _load(self, machine: str, report: T, program: str, *arguments: str) -> Iterator[T]:
        command = [NETPLANE, "lab", "exec", "--name", self.name, machine, "--", sys.executable, "-u", program]
        pipe = subprocess.PIPE
        process = subprocess.Popen([*command, *arguments], stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "streaming\n"
            yield report
            output, _ = process.communicate(timeout=60)
            vars(report).update(json.loads(output))
        finally:
            process.kill()
            process.wait()


def eventually(question: Callable[[], Any], what: str | Callable[[], str], seconds: float = 60) -> Any:
    """Ask until the answer is true; say what did not come about."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not: {what if isinstance(what, str) else what()}")
        time.sleep(0.1)


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def hello_is_whole(lab: Lab) -> bool:
    """Three Ready nodes, three ready pods, none on its way out."""
    nodes = lab.get("nodes")["items"]
    pods = [pod for pod in lab.pods("app=hello") if "deletionTimestamp" not in pod["metadata"]]
    return len(nodes) == 3 and all(map(ready, nodes)) and len(pods) == 3 and all(map(ready, pods))
