"""Sessions at a shell, written down: a file of commands and what they printed is the test, and can be recorded anew.

A line beginning with one of these asks for something, the lines up to the next such line are what came of it:

    = text         says why; what follows belongs together
    $ command      run once by bash
    ~ command      run until it prints what is written: controllers and node agents need a moment
    & command      started, and left to run
    . [command]    ended, what `&` started: what it has printed (a command runs first, and prints first)
    > text         a further line of the command above

Standard error is part of what a command prints; `[exit N]` is its exit status where it is not 0. What no two
runs have in common is written as `<age>`, `<uid>` and so on, and tables are laid out again after that. Lines that
only one version of kubectl prints begin with it: `[1.36] text`.
"""

import difflib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

SECONDS = 60.0
QUIET_SECONDS = 1.5  # of a command that is still running or polled: what it says now is what is recorded
_MARKS = ("= ", "$ ", "~ ", "& ", ". ")
_VERSION = re.compile(r"\[(\d+\.\d+)\] ?")


@dataclass(frozen=True)
class Step:
    """One request, and what is written below it: (version, "" for all; line)."""

    mark: str
    command: str
    written: tuple[tuple[str, str], ...] = ()

    def expected(self, version: str) -> list[str]:
        return [line for only, line in self.written if only in ("", version)]


def parse(text: str) -> list[Step]:
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith(_MARKS) or line in ("=", "."):
            steps.append(Step(line[0], line[2:]))
        elif line.startswith("> ") and steps and not steps[-1].written:
            steps[-1] = replace(steps[-1], command=f"{steps[-1].command}\n{line[2:]}")
        elif match := _VERSION.match(line):
            steps[-1] = replace(steps[-1], written=(*steps[-1].written, (match[1], line[match.end() :])))
        elif steps:
            steps[-1] = replace(steps[-1], written=(*steps[-1].written, ("", line)))
    return steps


def written(step: Step) -> Iterator[str]:
    first, *more = step.command.split("\n")
    yield f"{step.mark} {first}".rstrip()
    yield from (f"> {line}" for line in more)
    for only, line in step.written:
        yield f"[{only}] {line}".rstrip() if only else line


def transcript(steps: Iterable[Step], version: str = "") -> str:
    """The file again; with a version, only what holds for it."""
    lines = []
    for step in steps:
        kept = step if not version else replace(step, written=tuple(("", x) for x in step.expected(version)))
        lines += written(kept)
    return "\n".join(lines) + "\n"


def merged(outputs: Mapping[str, Sequence[str]]) -> tuple[tuple[str, str], ...]:
    """What several versions printed as one text: lines that all have are written once."""
    (first, ours), (second, theirs) = outputs.items()
    found: list[tuple[str, str]] = []
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    for word, a, b, c, d in matcher.get_opcodes():
        if word == "equal":
            found += [("", line) for line in ours[a:b]]
        else:
            found += [(first, line) for line in ours[a:b]] + [(second, line) for line in theirs[c:d]]
    return tuple(found)


@dataclass
class Session:
    """A shell in which `kubectl` is one version of it. ``volatile`` are patterns and what is written for them."""

    version: str
    directory: Path
    environment: Mapping[str, str]
    volatile: Sequence[tuple[re.Pattern[str], str]]
    record: bool = False
    _running: list[tuple[subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def run(self, steps: Iterable[Step]) -> list[list[str]]:
        """What each step printed, in this version's own words."""
        try:
            return [self._step(step) for step in steps]
        finally:
            for process, _ in self._running:
                _end(process)

    def _step(self, step: Step) -> list[str]:
        match step.mark:
            case "$":
                return self._once(step.command)
            case "~":
                return self._until(step)
            case "&":
                return self._start(step.command)
            case ".":
                return self._finish(step)
        return [line for _, line in step.written]

    def _once(self, command: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-c", command],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS * 2,
        )
        end = [f"[exit {done.returncode}]"] if done.returncode else []
        return self._tidy(done.stdout) + end

    def _until(self, step: Step) -> list[str]:
        deadline, last, since = time.monotonic() + SECONDS, [""], time.monotonic()
        while True:
            found = self._once(step.command)
            if found != last:
                last, since = found, time.monotonic()
            quiet = time.monotonic() - since > QUIET_SECONDS
            if (
                quiet if self.record else found == step.expected(self.version)
            ) or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def _start(self, command: str) -> list[str]:
        path = self.directory / f"background-{len(self._running)}"
        with path.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                env=self.environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._running.append((process, path))
        self._wait(process, lambda: path.stat().st_size > 0)
        return []

    def _finish(self, step: Step) -> list[str]:
        said = self._once(step.command) if step.command else []
        process, path = self._running.pop()
        try:
            wanted, last, since = step.expected(self.version)[len(said) :], b"", time.monotonic()

            def done() -> bool:
                nonlocal last, since
                found = path.read_bytes()
                if found != last:
                    last, since = found, time.monotonic()
                quiet = time.monotonic() - since > QUIET_SECONDS
                return quiet if self.record else self._tidy(found) == wanted

            self._wait(process, done)
        finally:
            _end(process)
        return said + self._tidy(path.read_bytes())

    def _wait(self, process: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS / 4
        while not done() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _tidy(self, output: bytes) -> list[str]:
        return laid_out(output.decode(errors="replace").replace("\r", "").splitlines(), self._plain)

    def _plain(self, text: str) -> str:
        for pattern, word in self.volatile:
            text = pattern.sub(word, text)
        return text


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def laid_out(lines: Sequence[str], plain: Callable[[str], str]) -> list[str]:
    """Every cell ``plain``, and columns as wide as what is in them then; outside of tables, gaps of two spaces."""
    found: list[str] = []
    starts: list[int] = []
    table: list[list[str]] = []
    for line in [*lines, ""]:
        heads = _heads(line)
        if table and (heads or not _fits(line, starts)):
            found += _columns(table)
            table = []
        starts = heads or starts
        if heads or table:
            table.append([plain(cell) for cell in _cells(line, starts)])
        else:
            body = plain(line.expandtabs(2)).rstrip()
            start = len(body) - len(body.lstrip())
            found.append(body[:start] + re.sub(r" {2,}", "  ", body[start:]))
    return found[:-1]


def _heads(line: str) -> list[int]:
    """Where the columns begin if this is a table's first line: capitals, two words apart at least."""
    cells = list(re.finditer(r"\S+(?: \S+)*", line))
    heading = len(cells) > 1 and all(cell[0].isupper() for cell in cells) and not line.startswith(" ")
    return [cell.start() for cell in cells] if heading else []


def _cells(line: str, starts: Sequence[int]) -> list[str]:
    ends = [*starts[1:], len(line)]
    return [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def _fits(line: str, starts: Sequence[int]) -> bool:
    """Whether a line can be a row: something is in it, and no cell crosses the beginning of the next."""
    return bool(line.strip()) and all(line[start - 1 : start] in ("", " ") for start in starts)


def _columns(table: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in table)
    return ["   ".join(row).rstrip() for row in rows]


def shell(kubectl: Path, directory: Path, kubeconfig: Path, **environment: str) -> dict[str, str]:
    """An environment in which `kubectl` is this file, and nothing of it is remembered elsewhere."""
    commands = directory / "bin"
    commands.mkdir()
    (commands / "kubectl").symlink_to(kubectl)
    terminal = commands / "terminal"  # runs a command as people do: on a terminal
    terminal.write_text(f"#!{sys.executable}\nimport pty, sys\nsys.exit(pty.spawn(sys.argv[1:]) >> 8)\n")
    terminal.chmod(0o755)
    own = directory / "kubeconfig"
    own.write_bytes(kubeconfig.read_bytes())
    own.chmod(0o600)
    return {
        "PATH": f"{commands}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(directory),
        "KUBECONFIG": str(own),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "TMPDIR": str(directory),
        **{key: value for key, value in os.environ.items() if key.startswith("LD_")},
        **environment,
    }
