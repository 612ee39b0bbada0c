"""From a plain process to PID 1 of a pod: the namespaces, and what a program expects to find in them."""

import fcntl
import os
import socket
import struct
from typing import NamedTuple

from netplane.node.sandbox import kernel
from netplane.node.sandbox.mounts import Mount, Tree

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
PRIVATE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


class Plan(NamedTuple):
    """What the agent asks for. ``directory`` holds the pod's `hosts`, `resolv.conf` and socket."""

    directory: str
    hostname: str
    host_network: bool
    cgroups: list[str]  # `cgroup.procs` files to join, one per hierarchy
    sysctls: dict[str, str]  # of the network namespace, by path under /proc/sys
    mounts: list[tuple[str, str, bool]] = []  # noqa: RUF012 - volumes: source, target, read only; never changed


def enter(plan: Plan) -> None:
    """In the first process: leave the agent's session, cgroups and namespaces. Its next child is PID 1."""
    os.setsid()
    for path in plan.cgroups:
        with open(path, "w") as file:  # noqa: PTH123
            file.write("0")
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWPID
    kernel.unshare(flags if plan.host_network else flags | kernel.CLONE_NEWNET)


def furnish(plan: Plan) -> None:
    """In PID 1: its own /proc, /sys, /dev/shm, name and name files, volumes; loopback up. Raises OSError."""
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("proc", "/proc", "proc", PRIVATE)
    if not plan.host_network:
        # The pod's own view of network devices; the host's cgroups are out of sight with the old one.
        kernel.mount("sysfs", "/sys", "sysfs", PRIVATE | kernel.MS_RDONLY)
        socket.sethostname(plan.hostname)
        _loopback_up()
        for name, value in plan.sysctls.items():
            with open(f"/proc/sys/{name}", "w") as file:  # noqa: PTH123
                file.write(value)
    if os.path.isdir("/dev/shm"):  # noqa: PTH112
        kernel.mount("shm", "/dev/shm", "tmpfs", PRIVATE, "mode=1777,size=65536k")
    if os.path.isdir("/dev/pts"):  # noqa: PTH112
        # Terminals of its own: the host's are not in sight, and the pod's get names that are.
        options = "newinstance,ptmxmode=0666,mode=0620,gid=5"
        kernel.mount("devpts", "/dev/pts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, options)
        _cover("/dev/ptmx", "/dev/pts/ptmx")
    for name in ("hosts", "resolv.conf"):
        _cover(f"/etc/{name}", f"{plan.directory}/{name}")
    Tree(plan.directory).mount_all([Mount(*mount) for mount in plan.mounts])


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def _cover(target: str, source: str) -> None:
    """Bind ``source`` over a file of the host, in this mount namespace only.

    The target may be a link into nowhere (`/etc/resolv.conf` where /run is fresh): an empty file is then made
    where it points, since a mount needs something to be mounted on.
    """
    target = os.path.realpath(target)
    if not os.path.exists(target):  # noqa: PTH110
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    kernel.mount(source, target, "", kernel.MS_BIND)
