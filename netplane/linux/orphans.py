"""Cgroups that were made for the time of a run, and outlived it because it was killed.

Why a mark on the group: an empty one looks the same whether its owner is dead or has only just made it. So whoever
makes a group for a run says who it is, and a later run takes away what a dead one left.
"""

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from netplane.errors import KernelError
from netplane.linux.cgroups import Cgroup, detect

OWNER = "trusted.netplane.owner"  # an extended attribute of the directory: "PID START NAMESPACE"
NAMES = "netplane-*"


def own(group: Cgroup) -> None:
    """Make a group that is this process's, and goes with it at the latest. Raises KernelError."""
    sweep()
    group.create()
    for directory in group.directories:
        with suppress(OSError):  # then nobody will sweep it
            os.setxattr(directory, OWNER, _life(os.getpid()).encode())


def sweep() -> list[str]:
    """Remove what dead owners have left empty; the names of these groups."""
    layout = detect()
    mounts = {*layout.mounts.values(), *filter(None, [layout.unified])}
    names = {path.name for mount in mounts for path in mount.glob(NAMES) if _is_orphan(path)}
    for name in names:
        with suppress(KernelError, OSError):  # somebody has entered it
            Cgroup(layout, PurePosixPath(name)).remove()
    return sorted(names)


def _is_orphan(directory: Path) -> bool:
    try:
        owner = os.getxattr(directory, OWNER).decode()
        inhabited = any(procs.read_text() for procs in directory.rglob("cgroup.procs"))
    except OSError:
        return False  # nobody's mark, or gone already
    pid, _, namespace = owner.split(" ")
    if namespace != _namespace() or inhabited:
        return False
    return _life(int(pid)) != owner


def _life(pid: int) -> str:
    """A process for good: its number may be another's tomorrow, its start is its own (proc(5), field 22)."""
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
    return f"{pid} {start} {_namespace()}"


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
