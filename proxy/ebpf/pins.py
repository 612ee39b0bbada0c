"""Programs, maps and links in the kernel: pinned, so that forwarding needs no process; swapped, never gone.

In a directory of the BPF file system: ``links/`` holds one link a hook; ``maps-…/`` the maps, named after their
layout. A newer netplane with the same layout goes on with the maps and swaps the programs under the links, each at
once. With another layout it fills maps of its own first, swaps, and then removes the old ones.
"""

import ctypes
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netplane.errors import KernelError
from netplane.linux import bpf
from netplane.linux.bpf import Map, Object
from proxy.ebpf.objects import SOCKETS
from proxy.ebpf.tables import MAPS

SOCK_ADDR = 18  # BPF_PROG_TYPE_CGROUP_SOCK_ADDR
SET_RETVAL = 187  # BPF_FUNC_set_retval, kernel 5.18
# Hook → enum bpf_attach_type of linux/bpf.h.
HOOKS: Mapping[str, int] = {
    "connect4": 10,
    "connect6": 11,
    "sendmsg4": 14,
    "sendmsg6": 15,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "getpeername4": 29,
    "getpeername6": 30,
    "release": 34,
}
_BPF_FS_MAGIC = 0xCAFE4A11
_MNT_DETACH = 2


@dataclass(frozen=True, slots=True)
class Pins:
    """Where one node's pins are."""

    directory: Path

    @property
    def maps(self) -> Path:
        """The maps of this layout."""
        return self.directory / f"maps-{SOCKETS.layout}"

    @property
    def links(self) -> Path:
        """One link a hook."""
        return self.directory / "links"

    def open_maps(self) -> dict[str, Map] | None:
        """The maps that are pinned, or None where not all of them are."""
        opened = {name: bpf.pinned_map(self.maps / name) for name in MAPS}
        there = {name: one for name, one in opened.items() if one is not None}
        if len(there) == len(MAPS):
            return there
        for one in there.values():
            one.close()
        return None


@contextmanager
def programs(pins: Pins) -> Iterator[Object]:
    """The programs, loaded and using the pinned maps, which are made where they are missing. Raises KernelError."""
    path = SOCKETS.built()
    constants = {
        "seed": random.randbytes(4),
        "can_refuse": bytes([bpf.has_helper(SOCK_ADDR, SET_RETVAL)]),
    }
    for directory in (pins.directory, pins.maps, pins.links):
        make_directory(directory)
    with bpf.loaded(path, constants=constants, pinned={name: pins.maps / name for name in MAPS}) as made:
        yield made


def attach(pins: Pins, made: Object, cgroup: Path) -> None:
    """Let every hook of a cgroup run these programs from now on. Raises KernelError naming the hook."""
    descriptor = _opened(cgroup)
    try:
        for hook, number in HOOKS.items():
            bpf.attach_to_cgroup(made.program(f"np_{hook}"), descriptor, number, pins.links / hook)
    finally:
        os.close(descriptor)
    for other in pins.directory.glob("maps-*"):
        if other != pins.maps:
            remove_directory(other)


def missing_hooks(cgroup: Path) -> list[str]:
    """The hooks at which a cgroup runs no program of ours, as the kernel tells."""
    try:
        descriptor = _opened(cgroup)
    except KernelError:
        return list(HOOKS)
    try:
        return [
            hook
            for hook, number in HOOKS.items()
            if f"np_{hook}"[:15] not in map(bpf.program_name, bpf.attached(descriptor, number))
        ]
    finally:
        os.close(descriptor)


def ensure_mounted(mount: Path) -> None:
    """Make sure of a BPF file system at ``mount``, which holds the pins. Raises KernelError."""
    if _is_bpf(mount):
        return
    try:
        mount.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KernelError(f"cannot make {mount} for a BPF file system: {error.strerror}") from None
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", str(mount).encode(), b"bpf", 0, b"mode=0700") != 0:
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(f"cannot mount a BPF file system at {mount}: {reason}")


def remove(pins: Pins) -> None:
    """Detach everything and remove every trace."""
    if pins.directory.is_dir():
        for hook in HOOKS:
            bpf.detach(pins.links / hook)
        for directory in (pins.links, *pins.directory.glob("maps-*")):
            remove_directory(directory)
        pins.directory.rmdir()


def unmount(mount: Path) -> bool:
    """Take away a BPF file system that was mounted here; whether there was one."""
    mounted = _is_bpf(mount)
    if mounted:
        ctypes.CDLL(None).umount2(str(mount).encode(), _MNT_DETACH)
        mount.rmdir()
    return mounted


def remove_directory(directory: Path) -> None:
    """Unpin all that is in a directory, and remove it; one that is not there is fine."""
    if directory.is_dir():
        bpf.unpin(list(directory.iterdir()))
        directory.rmdir()


def make_directory(directory: Path) -> None:
    """A directory for pins. Raises KernelError."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise KernelError(
            f"cannot make {directory}: {error.strerror}", "Is it on a BPF file system?"
        ) from None


def _opened(cgroup: Path) -> int:
    try:
        return os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"cannot open cgroup {cgroup}: {error.strerror}") from None


class _StatFs(ctypes.Structure):
    """struct statfs, of which only the type matters."""

    _fields_ = [("f_type", ctypes.c_long), ("rest", ctypes.c_char * 256)]


def _is_bpf(path: Path) -> bool:
    found = _StatFs()
    answered = ctypes.CDLL(None).statfs(str(path).encode(), ctypes.byref(found)) == 0
    return bool(answered and found.f_type & 0xFFFFFFFF == _BPF_FS_MAGIC)
