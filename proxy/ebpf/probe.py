"""What ebpf mode needs of a machine, and the name of what is missing.

Why the programs themselves are loaded in the end: only the kernel's verifier knows what it takes. What can be named
before that is named, so that a person reads which part is missing and not what a verifier thinks. The oldest kernel
with all of it is 5.15 (5.8: getpeername; 5.14: SO_NETNS_COOKIE).
"""

from dataclasses import dataclass
from pathlib import Path

from netplane.config import Paths
from netplane.errors import KernelError
from netplane.linux import bpf
from netplane.linux.cgroups import detect
from proxy.ebpf.objects import SOCKETS
from proxy.ebpf.pins import SOCK_ADDR

MACHINE = Path("/")
# What is asked of the kernel by number (linux/bpf.h) → its name.
MAP_TYPES = {
    1: "BPF_MAP_TYPE_HASH",
    2: "BPF_MAP_TYPE_ARRAY",
    5: "BPF_MAP_TYPE_PERCPU_HASH",
    9: "BPF_MAP_TYPE_LRU_HASH",
}
HELPERS = {46: "bpf_get_socket_cookie", 122: "bpf_get_netns_cookie"}


@dataclass(frozen=True, slots=True)
class Where:
    """Where a node's ebpf data path is: its cgroup, the BPF file system's mount, and its pins on it."""

    cgroup: Path
    mount: Path
    directory: Path


def where(paths: Paths) -> Where:
    """On a machine everything that runs there is the node's. Raises KernelError where there is no cgroup v2."""
    unified = detect().unified
    if unified is None:
        raise KernelError("cannot use ebpf mode: this host has no cgroup v2 hierarchy")
    cgroup = unified if paths.root == MACHINE else unified / paths.cgroup_name
    return Where(cgroup, paths.bpf_mount, paths.bpf_root)


def check(paths: Paths) -> None:
    """Raises KernelError naming the first thing that is missing."""
    where(paths)
    path = SOCKETS.built()
    if not bpf.has_program_type(SOCK_ADDR):
        raise KernelError(
            "cannot use ebpf mode: the kernel has no cgroup socket hooks for us (CONFIG_CGROUP_BPF, root)"
        )
    lacking = [name for number, name in MAP_TYPES.items() if not bpf.has_map_type(number)]
    lacking += [name for number, name in HELPERS.items() if not bpf.has_helper(SOCK_ADDR, number)]
    if lacking:
        raise KernelError(
            f"cannot use ebpf mode: the kernel has no {', '.join(lacking)}", "Linux 5.15 has all of it"
        )
    try:
        with bpf.loaded(path, constants={}):
            pass
    except KernelError as error:
        raise KernelError(f"cannot use ebpf mode: {error.message}", "Linux 5.15 has all of it") from None
