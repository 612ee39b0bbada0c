"""Compiled modules run only where they were made of the very sources that are there."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from netplane.compiled import build
from netplane.compiled.loading import BUILD, MANIFEST, OFF, ROOT, Finder, digest_of, machine, why_not
from netplane.compiled.modules import MODULES
from netplane.errors import ConfigError

SAY = """
import importlib, sys, proxy
from netplane import compiled
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
print(compiled.why_interpreted())
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A build of one source, said to be of this machine or of another."""
    monkeypatch.delenv(OFF, raising=False)
    (tmp_path / "part.py").write_text("ANSWER = 42\n")

    def make(of: str = machine()) -> Path:
        manifest = {
            "machine": of,
            "sources": {"part.py": digest_of(tmp_path / "part.py")},
            "modules": {"part": "part.so"},
        }
        (tmp_path / "build").mkdir()
        (tmp_path / "build" / MANIFEST).write_text(json.dumps(manifest))
        return tmp_path / "build"

    return make


def test_what_was_made_of_these_sources_is_found(made, tmp_path) -> None:
    finder = Finder(made(), tmp_path)
    assert finder.why == ""
    found = finder.find_spec("part", None)
    assert found is not None
    assert found.origin == str(tmp_path / "build/part.so")
    assert finder.find_spec("other", None) is None


def test_an_edited_source_runs_as_it_is_now(made, tmp_path) -> None:
    build = made()
    (tmp_path / "part.py").write_text("ANSWER = 43\n")
    finder = Finder(build, tmp_path)
    assert finder.why == "part.py has changed since"
    assert finder.find_spec("part", None) is None
    (tmp_path / "part.py").unlink()
    assert why_not(build, tmp_path) == "part.py is gone"


def test_a_copy_for_another_machine_is_left_alone(made, tmp_path) -> None:
    assert why_not(made(of="another"), tmp_path) == "compiled for another Python or C library"


def test_nothing_compiled_is_nothing_wrong(tmp_path) -> None:
    finder = Finder(tmp_path / "build", tmp_path)
    assert (finder.why, finder.find_spec("part", None)) == ("not compiled", None)


def test_all_that_a_module_imports_of_ours_counts() -> None:
    """A constant of another module goes into the machine code."""
    assert Path("proxy/model.py") in build.reached(["proxy.userspace.streams.flow"])


def test_a_compiler_that_fails_is_said_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CC", "false")
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match="the C compiler failed"):
        build.build(tmp_path / "now", ["proxy.userspace.streams.ledger"])
    assert list(tmp_path.iterdir()) == []


def test_this_checkout_runs_compiled_and_plain_when_told_to() -> None:
    if why := why_not():
        pytest.skip(f"this checkout runs as plain Python: {why}")
    compiled, plain = _said({}), _said({OFF: "1"})
    assert (compiled.pop(), plain.pop()) == ("", f"{OFF} is set")
    assert all(file.startswith(str(BUILD)) for file in compiled)
    assert plain == [str(ROOT / build.path_of(name)) for name in MODULES]


def _said(environment: dict[str, str]) -> list[str]:
    """The file that each module of the list runs from, and why none is compiled."""
    command = [sys.executable, "-c", SAY, *MODULES]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    return ran.stdout.removesuffix("\n").split("\n")
