"""What the demo prints. Pure: from what was seen to text."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 150


@dataclass(frozen=True, slots=True)
class Answers:
    """Requests from one place to one URL: `answers` as `netplane/echo` gave them, or {"error": why}."""

    source: str
    address: str
    url: str
    answers: tuple[dict[str, Any], ...]

    @property
    def failures(self) -> int:
        """How many were not answered."""
        return sum("error" in answer for answer in self.answers)

    def counted(self) -> list[tuple[str, str, str, int]]:
        """(pod, its node, the client address it saw, how often), or ("no answer: why", "", "", how often)."""
        count = Counter(
            (f"no answer: {one['error']}", "", "")
            if "error" in one
            else (str(one["pod"]), str(one["node"]), str(one["client"]))
            for one in self.answers
        )
        return [(*key, count[key]) for key in sorted(count)]


def render(program: str, name: str, kubeconfig: Path, answers: Sequence[Answers], explanation: str) -> str:
    """All of it; `program` is how this command was called."""
    return "\n".join(
        (
            "Who answered, and whom it saw",
            _table(answers),
            "How one of these requests goes: each hop from the kernel's own state, then its packets",
            "",
            explanation,
            _next_steps(program, name, kubeconfig),
        )
    )


def _table(answers: Sequence[Answers]) -> str:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("FROM", "ADDRESS", "TO", "ANSWERED BY", "ON", "SAW CLIENT"):
        table.add_column(heading, overflow="fold")
    table.add_column("TIMES", justify="right")
    for one in answers:
        for place, (pod, node, client, count) in enumerate(one.counted()):
            where = (one.source, one.address, one.url) if place == 0 else ("", "", "")
            table.add_row(*where, pod, node, client, str(count))
        table.add_section()
    console = Console(file=io.StringIO(), width=WIDTH)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"


def _next_steps(program: str, name: str, kubeconfig: Path) -> str:
    return f"""The cluster stays up. To use it:
  export KUBECONFIG={kubeconfig}
  kubectl get pods,services -o wide
  {program} lab exec --name {name} n2 -- ip route
  {program} lab status --name {name}
  {program} lab exec --name {name} n1 -- netplane doctor
To remove it:
  {program} lab down --name {name}
"""
