"""Takes a lab away, whatever state it is in: alive, half made, killed, or already gone.

Nothing here asks the lab for its cooperation. All its processes are in its cgroups; when they have ended the
kernel has taken the namespaces, links and mounts with them, and what is left is cgroups and a directory.
"""

import errno
import os
import select
import shutil
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from netplane.errors import KernelError, PeerError
from netplane.lab import place
from netplane.lab.spec import LABS, check_name
from netplane.linux.cgroups import Cgroup
from netplane.node.supervise import control as supervisor

END_SECONDS = 15.0
LOCK_SECONDS = 10.0


def down(name: str) -> bool:
    """Remove the lab; True if there was anything to remove. Raises KernelError if something does not go."""
    check_name(name)
    directory = LABS / name
    if not (directory.exists() or any(map(_exists, place.cgroups(directory)))):
        return False
    end_processes(directory)
    with place.locked(directory, wait=LOCK_SECONDS):
        remove(directory)
    return True


def remove(directory: Path) -> None:
    """The work itself, for who holds the lab's lock."""
    end_processes(directory)
    for cgroup in place.cgroups(directory):
        cgroup.remove()
    if directory.exists():
        shutil.rmtree(directory)
    for parent in (LABS, LABS.parent):
        try:
            parent.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                return
            raise KernelError(f"cannot remove {parent}: {error.strerror}") from None


def end_processes(directory: Path) -> None:
    """Kill everything that runs in the lab; returns when nothing does.

    The lab's PID 1 goes first: with it the kernel ends its whole PID namespace. Who entered from outside,
    or was still on the way in, is found in the cgroups. A process leaves these before it has ended: that it has,
    its pidfd tells. Raises KernelError naming those that do not die.
    """
    deadline = time.monotonic() + END_SECONDS
    first = _first(directory)
    with ExitStack() as stack:
        held: dict[int, int] = {}
        while pids := first | _running(directory):
            for pid in sorted(pids, key=lambda pid: pid not in first):
                with suppress(ProcessLookupError):
                    if pid not in held:
                        held[pid] = os.pidfd_open(pid)
                        stack.callback(os.close, held[pid])
                    signal.pidfd_send_signal(held[pid], signal.SIGKILL)
            first = set()
            if time.monotonic() > deadline:
                raise KernelError(f"cannot end lab {directory.name}: processes {sorted(pids)} do not die")
            time.sleep(0.02)
        for pid, descriptor in held.items():
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise KernelError(f"cannot end lab {directory.name}: process {pid} does not die")


def _first(directory: Path) -> set[int]:
    try:
        return {supervisor.peer_pid(place.socket_of(directory))}
    except PeerError:
        return set()


def _running(directory: Path) -> set[int]:
    """The lab's processes except ourselves, who may have been started from inside one of its cgroups."""
    found: set[int] = set()
    for cgroup in place.cgroups(directory):
        for top in cgroup.directories:
            for procs in top.rglob("cgroup.procs"):
                with suppress(OSError):
                    found |= {int(line) for line in procs.read_text().split()}
    return found - {0, os.getpid()}


def _exists(cgroup: Cgroup) -> bool:
    return any(directory.exists() for directory in cgroup.directories)
