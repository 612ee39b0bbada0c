"""A pod's volumes within its file tree: bind mounts in the pod's mount namespace, nothing made on the host.

Where a mount path is missing on the host, the directory that lacks it is covered, for this pod only, by a memory file
system that shows all of the old directory's entries and has room for one more. For a path just below `/` that is a new
root, which PID 1 changes into before it starts anything.
"""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from netplane.node.sandbox import kernel


class Mount(NamedTuple):
    """``source`` on the host, a directory or a file, shown at ``target``."""

    source: str
    target: str
    read_only: bool


class Tree:
    """The pod's view of files while it is being made. ``directory`` is the pod's own, for mount points."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._covered = 0
        self._own: set[str] = set()  # directories that only this pod sees, in which names may be made

    def mount_all(self, mounts: Sequence[Mount]) -> None:
        """Outer ones first, so that one may lie within another. Raises OSError."""
        for mount in sorted(mounts, key=lambda mount: mount.target.count("/")):
            target = os.path.normpath(mount.target)
            if not os.path.lexists(target):
                self._make(target, is_directory=os.path.isdir(mount.source))  # noqa: PTH112
            kernel.mount(mount.source, target, "", kernel.MS_BIND | kernel.MS_REC)
            if mount.read_only:
                flags = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY
                kernel.mount("none", target, "", flags)
            else:
                self._own.add(target)  # a volume that may be written to may get mount points

    def _make(self, target: str, *, is_directory: bool) -> None:
        parent = os.path.dirname(target)  # noqa: PTH120
        if not os.path.lexists(parent):
            self._make(parent, is_directory=True)
        parent = os.path.realpath(parent)
        if parent not in self._own:
            self._cover(parent)
        if is_directory:
            os.mkdir(target)  # noqa: PTH102
            self._own.add(os.path.realpath(target))
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))

    def _cover(self, place: str) -> None:
        stage = f"{self._directory}/m{self._covered}"
        self._covered += 1
        os.mkdir(stage)  # noqa: PTH102
        mode = stat.S_IMODE(os.stat(place).st_mode)  # noqa: PTH116
        kernel.mount("tree", stage, "tmpfs", kernel.MS_NOSUID, f"mode={mode:o},size=1m")
        # Whatever is bound from around the stage must not carry the stage into itself.
        kernel.mount("none", stage, "", kernel.MS_UNBINDABLE)
        for entry in os.scandir(place):
            _show(entry, f"{stage}/{entry.name}")
        if place == "/":
            os.chroot(stage)
            os.chdir("/")
        else:
            kernel.mount("none", stage, "", kernel.MS_PRIVATE)
            kernel.mount(stage, place, "", kernel.MS_MOVE)
        self._own.add(place)


def _show(entry: os.DirEntry[str], target: str) -> None:
    """One entry of a covered directory; one that vanishes meanwhile is left out."""
    try:
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)  # noqa: PTH115, PTH211
            return
        if entry.is_dir():
            os.mkdir(target)  # noqa: PTH102
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        kernel.mount(entry.path, target, "", kernel.MS_BIND | kernel.MS_REC)
    except FileNotFoundError:
        return
