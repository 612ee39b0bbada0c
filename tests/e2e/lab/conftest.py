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


def namespaces_of(name: str) -> set[str]:
    """Every namespace that a process of the lab is in and we are not."""
    ours = set(namespaces("self"))
    return {ns for pid in processes_of(name) for ns in namespaces(pid)} - ours


def namespaces(pid: str) -> list[str]:
    try:
        return [str(link.readlink()) for link in (Path("/proc") / pid / "ns").iterdir()]
    except OSError:
        return []


def processes_of(name: str) -> list[str]:
    """Processes in the lab's cgroups."""
    found = []
    for cgroup in place.cgroups(LABS / name):
        for directory in cgroup.directories:
            for procs in directory.rglob("cgroup.procs"):
                found += procs.read_text().split()
    return found


def remains(name: str, before: set[str] = frozenset()) -> list[str]:
    """What is still there of a lab; `before` are namespaces it had."""
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
        found += [f"{process.name} in {ns}" for ns in namespaces(process.name) if ns in before]
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
