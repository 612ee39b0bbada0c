"""Told to end, a test run and a benchmark take away what they made."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import sys, time
import pytest
from tests.conftest import pytest_configure

@pytest.fixture
def made(request):
    yield
    print("taken away", file=sys.stderr, flush=True)

def test_that_takes_long(made):
    print("at work", file=sys.stderr, flush=True)
    time.sleep(60)
"""
BENCH = """
import contextlib, time
from netplane.cli import bench, main

@contextlib.contextmanager
def place():
    try:
        print("at work", flush=True)
        yield
    finally:
        print("taken away", flush=True)

def measure():
    with place():
        time.sleep(60)

bench.bench.commands["idle"].callback = lambda **_: bench.report(measure, {}, dict, "table")
main.main(["bench", "idle"])
"""


def ended(command: list[str], stderr: int | None = None) -> str:
    """What it still says when it is told to end in the midst of its work."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "at work" in line:
                os.killpg(process.pid, signal.SIGTERM)
                return process.stdout.read()
    raise AssertionError("it never began")


@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=["alone", "two at a time"])
def test_a_run_of_tests(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "test_long.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n")
    assert "taken away" in ended(
        [
            sys.executable,
            "-m",
            "pytest",
            "-s",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
            *more,
        ],
        subprocess.STDOUT,
    )


def test_a_benchmark() -> None:
    assert ended([sys.executable, "-c", BENCH]) == "taken away\n"
