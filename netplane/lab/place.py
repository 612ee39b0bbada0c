"""Where a lab is: its record, its sockets, its lock, its cgroups; and which labs there are.

Nothing is remembered that the kernel can be asked: whether a lab lives is whether somebody answers its
socket, and its processes are those in its cgroup.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from netplane.errors import ConfigError, PeerError
from netplane.lab.spec import LABS, LabSpec, Machine, check_name, every_possible_machine
from netplane.linux.cgroups import Cgroup, detect
from netplane.node.supervise import control as supervisor


def socket_of(directory: Path) -> Path:
    """Where the lab's PID 1 answers."""
    return directory / "lab.sock"


def record_of(directory: Path) -> Path:
    """The spec that the lab was made from."""
    return directory / "lab.json"


def log_of(directory: Path) -> Path:
    """What the lab's PID 1 says."""
    return directory / "lab.log"


def outside_kubeconfig(directory: Path) -> Path:
    """The administrator's kubeconfig for the machine that the lab runs on: the API at 127.0.0.1."""
    return directory / "kubeconfig"


def inside_kubeconfig(directory: Path) -> Path:
    """The administrator's kubeconfig for commands run inside the lab."""
    return directory / "inside.kubeconfig"


def names() -> list[str]:
    """Every lab that has left a directory here."""
    return sorted(path.name for path in LABS.iterdir() if path.is_dir()) if LABS.is_dir() else []


def load(name: str) -> LabSpec:
    """The lab of that name, alive or not. Raises ConfigError if there is none."""
    check_name(name)
    try:
        return LabSpec.from_json(json.loads(record_of(LABS / name).read_text()))
    except FileNotFoundError:
        there = ", ".join(names()) or "none"
        raise ConfigError(
            f"cannot find lab {name}: there is {there}", "Make one with netplane lab up --name NAME"
        ) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"cannot read lab {name}: its record is damaged: {error}",
            f"Remove it: netplane lab down --name {name}",
        ) from None


def is_alive(directory: Path) -> bool:
    """Whether the lab's PID 1 answers."""
    try:
        supervisor.peer_pid(socket_of(directory))
    except PeerError:
        return False
    return True


def lab_cgroup(directory: Path) -> Cgroup:
    """Where the lab's PID 1 is."""
    return Cgroup(detect(), PurePosixPath(f"netplane-lab-{directory.name}"))


def machine_cgroup(machine: Machine) -> Cgroup:
    """All of one machine, pods included."""
    return Cgroup(detect(), PurePosixPath(machine.paths.cgroup_name))


def daemons_cgroup(machine: Machine) -> Cgroup:
    """A machine's PID 1, its daemons, and whoever enters the machine."""
    return machine_cgroup(machine).child("daemons")


def cgroups(directory: Path) -> list[Cgroup]:
    """Every cgroup the lab may have, whether its record still says so or not; PID 1's first."""
    return [lab_cgroup(directory), *map(machine_cgroup, every_possible_machine(directory))]


@contextmanager
def locked(directory: Path, *, wait: float) -> Iterator[bool]:
    """Keep other commands off the lab: the lock is on its directory, which is made if need be.

    Gives whether it was obtained within `wait` seconds.
    """
    deadline = time.monotonic() + wait
    while True:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            held = _flock(descriptor)
            if held and not _is_same(descriptor, directory):
                continue  # it was removed while we waited, and is another directory now
            if held or time.monotonic() >= deadline:
                yield held
                return
        finally:
            os.close(descriptor)
        time.sleep(0.05)


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(descriptor: int, directory: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    return False
