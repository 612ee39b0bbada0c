"""Labs of these tests' own, and what of a lab can be left on the machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.lab import place
from netplane.lab.down import down
from netplane.lab.spec import LABS
from tests.e2e.cluster.driver import Lab

NETPLANE = str(Path(sys.executable).parent / "netplane")


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        [NETPLANE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def life(pid: str) -> str:
    """A process for good: its number may be another's tomorrow, its start is its own (proc(5), field 22).

    "" for one that has ended, and may only wait for the machine's init to collect it.
    """
    try:
        fields = (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{pid} since {fields[19]}"


def inhabitants(name: str) -> set[str]:
    """Every process of the lab now. Without one of them, and without a mount, no namespace of it is left."""
    return {life(pid) for pid in processes_of(name)} - {""}


def processes_of(name: str) -> list[str]:
    """Processes in the lab's cgroups."""
    found = []
    for cgroup in place.cgroups(LABS / name):
        for directory in cgroup.directories:
            for procs in directory.rglob("cgroup.procs"):
                found += procs.read_text().split()
    return found


def remains(name: str, before: set[str] = frozenset()) -> list[str]:
    """What is still there of a lab; `before` are processes it had."""
    directory = LABS / name
    found = [str(directory)] if directory.exists() else []
    found += [str(d) for cgroup in place.cgroups(directory) for d in cgroup.directories if d.exists()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"/labs/{name}/" in command or f"/labs/{name} " in command:
            found.append(f"{process.name}: {command}")
        found += [one for one in (life(process.name),) if one in before]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return found + [mount for mount in mounts if f"/labs/{name}/" in mount]


def links() -> list[str]:
    """The interfaces of the namespace we are in."""
    return sorted(link.name for link in Path("/sys/class/net").iterdir())


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A lab's name that is this test's own; the lab is removed after it."""
    name = f"t{os.getpid() % 100000}{abs(hash(request.node.name)) % 1000:03}"
    yield name
    down(name)


@pytest.fixture
def lab(name: str) -> Lab:
    """The lab of that name, not made yet."""
    return Lab(name)
