"""Cgroups: what a pod may use of memory, CPU and processes, on the unified hierarchy (v2) and on the old ones (v1).

v2 is the product's path. v1 is used where memory, cpu and pids are mounted as hierarchies of their own. A controller
that the host does not offer is reported by name; nothing here pretends a limit that the kernel does not hold.
Source: kernel documentation, admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from netplane.errors import KernelError

MOUNT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids")
PERIOD_US = 100_000  # the kernel's own default, and Kubernetes'
KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What processes may use: bytes, thousandths of a CPU, a number of processes. None leaves it open.

    ``cpu_share`` (also thousandths) is what they get of a contended CPU; it limits nothing on an idle one.
    """

    memory: int | None = None
    cpu: int | None = None
    cpu_share: int | None = None
    pids: int | None = None

    def files_v2(self) -> dict[str, str]:
        """File name to content for the unified hierarchy."""
        files: dict[str, str] = {}
        if self.cpu is not None:
            files["cpu.max"] = f"{_quota(self.cpu)} {PERIOD_US}"
        if self.cpu_share is not None:
            # Kubernetes' mapping of cpu.shares [2..262144] to cpu.weight [1..10000].
            files["cpu.weight"] = str(1 + (_shares(self.cpu_share) - 2) * 9999 // 262142)
        if self.memory is not None:
            files["memory.max"] = str(self.memory)
        if self.pids is not None:
            files["pids.max"] = str(self.pids)
        return files

    def files_v1(self) -> dict[str, str]:
        """File name to content; the part before the first dot names the hierarchy."""
        files: dict[str, str] = {}
        if self.cpu is not None:
            files["cpu.cfs_period_us"] = str(PERIOD_US)
            files["cpu.cfs_quota_us"] = str(_quota(self.cpu))
        if self.cpu_share is not None:
            files["cpu.shares"] = str(_shares(self.cpu_share))
        if self.memory is not None:
            files["memory.limit_in_bytes"] = str(self.memory)
        if self.pids is not None:
            files["pids.max"] = str(self.pids)
        return files


def _quota(milli: int) -> int:
    return max(milli * PERIOD_US // 1000, 1000)  # the kernel takes no quota under a millisecond


def _shares(milli: int) -> int:
    return min(max(milli * 1024 // 1000, 2), 262_144)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which cgroup version the host has, and where each usable controller is mounted.

    ``unified``: the v2 hierarchy, which may stand beside those of v1; it is where BPF programs meet processes.
    """

    version: int
    mounts: Mapping[str, Path]
    unified: Path | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """The controllers that a limit would need and the host does not offer."""
        return tuple(name for name in CONTROLLERS if name not in self.mounts)


def detect(mount: Path = MOUNT) -> Layout:
    """Look at what is mounted. A host without any cgroups has version 0 and all controllers missing."""
    unified = mount / "cgroup.controllers"
    if unified.exists():
        offered = unified.read_text().split()
        return Layout(2, {name: mount for name in CONTROLLERS if name in offered}, mount)
    found = {name: mount / name for name in CONTROLLERS if (mount / name / "cgroup.procs").exists()}
    beside = mount / "unified"
    hybrid = beside if (beside / "cgroup.controllers").exists() else None
    return Layout(1 if found else 0, found, hybrid)


class Cgroup:
    """One group, in every hierarchy that matters. ``path`` is relative to the mounts: `netplane/pods/12ab`."""

    def __init__(self, layout: Layout, path: PurePosixPath) -> None:
        self.layout = layout
        self.path = path

    def child(self, name: str) -> "Cgroup":
        """A group inside this one."""
        return Cgroup(self.layout, self.path / name)

    @property
    def directories(self) -> list[Path]:
        """The group's directory in each hierarchy, each once."""
        mounts = [*self.layout.mounts.values(), self.layout.unified]
        return list(dict.fromkeys(mount / self.path for mount in mounts if mount is not None))

    @property
    def procs(self) -> list[Path]:
        """The files that take the pid of a process that joins."""
        return [directory / "cgroup.procs" for directory in self.directories]

    def create(self, limits: Limits | None = None) -> None:
        """Make the group and its parents, and write its limits. Raises KernelError, also naming a limit that is
        asked for where its controller is missing.
        """
        wanted = limits or Limits()
        for directory in self.directories:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise KernelError(f"cannot make cgroup {directory}: {error.strerror}") from None
        if self.layout.version == 2:
            self._delegate()
        for name, text in (wanted.files_v2() if self.layout.version == 2 else wanted.files_v1()).items():
            self._write(name, text)

    def _delegate(self) -> None:
        """v2: a group has a controller only if each parent up to the mount passes it down."""
        wanted = " ".join(f"+{name}" for name in self.layout.mounts)
        for mount in set(self.layout.mounts.values()):
            for parent in reversed((mount / self.path).parents):
                if parent.is_relative_to(mount):
                    try:
                        (parent / "cgroup.subtree_control").write_text(wanted)
                    except OSError as error:
                        raise KernelError(
                            f"cannot pass cgroup controllers {wanted} down in {parent}: {error.strerror}",
                            "Processes directly in that group prevent it; move them into a group of their own",
                        ) from None

    def _write(self, name: str, text: str) -> None:
        controller = name.partition(".")[0]
        mount = self.layout.mounts.get(controller)
        if mount is None:
            raise KernelError(
                f"cannot set {name} to {text}: this host has no cgroup controller {controller}",
                f"Enable it at boot, or leave out the limit on {controller}",
            )
        try:
            (mount / self.path / name).write_text(text)
        except OSError as error:
            raise KernelError(f"cannot set {mount / self.path / name} to {text}: {error.strerror}") from None

    def pids(self) -> set[int]:
        """The processes in this group itself, as this PID namespace numbers them; 0 is one that it cannot see."""
        found: set[int] = set()
        for file in self.procs:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in file.read_text().split()}
        return found

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        mount = self.layout.mounts.get("memory")
        if mount is None:
            return 0
        file = "memory.events" if self.layout.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (mount / self.path / file).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0

    def kill(self) -> None:
        """SIGKILL to all that is in this group, and whatever it forks meanwhile. Blocks until it is empty."""
        if self.layout.version == 2:
            for directory in self.directories:
                with contextlib.suppress(OSError):
                    (directory / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + KILL_SECONDS
        while pids := self.pids() - {0}:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise KernelError(f"cannot empty cgroup {self.path}: processes {sorted(pids)} do not die")
            time.sleep(0.005)

    def remove(self) -> None:
        """Kill what is left, then remove this group and all groups inside it. Absent is fine."""
        for directory in self.directories:
            for inner in sorted(p.parent for p in directory.glob("*/cgroup.procs")):
                self.child(inner.name).remove()
        self.kill()
        for directory in self.directories:
            _rmdir(directory)


def _rmdir(directory: Path) -> None:
    """A group whose last process is just being reaped is busy for a moment."""
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise KernelError(f"cannot remove cgroup {directory}: {error.strerror}") from None
            time.sleep(0.005)
        else:
            return
