"""Runs a command inside a machine of the lab: in all of its namespaces and its cgroup.

`nsenter` does the entering, from a fresh process: Python threads share their namespaces badly.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from netplane.errors import KernelError, PeerError
from netplane.lab import place
from netplane.lab.spec import OUTSIDE, LabSpec
from netplane.node.supervise import control as supervisor

# A killed nsenter must not leave its command behind.
TIED = ("setpriv", "--pdeathsig", "KILL", "--")


def argv(spec: LabSpec, machine: str, command: Sequence[str], *, directory: str = "/") -> list[str]:
    """The words that run `command` in `machine`, or in the lab's own namespaces if it is "outside".

    Raises ConfigError for a machine that the lab does not have, PeerError for one that is off.
    """
    pid = pid_of(spec, machine)
    cgroup = place.lab_cgroup(spec.directory)
    if machine != OUTSIDE:
        cgroup = place.daemons_cgroup(spec.machine(machine))
    join = "".join(f"echo 0 > {path}; " for path in cgroup.procs)
    enter = [
        "nsenter",
        "-t",
        str(pid),
        "--net",
        "--mount",
        "--pid",
        "--uts",
        "--ipc",
        f"--wdns={directory}",
        "--",
    ]
    return ["/bin/sh", "-ec", f'{join}exec "$@"', "sh", *enter, *TIED, *command]


def pid_of(spec: LabSpec, machine: str) -> int:
    """PID 1 of the machine as our PID namespace numbers it, asked of the kernel. Raises as `argv`."""
    if machine == OUTSIDE:
        path = place.socket_of(spec.directory)
        hint = f"netplane lab down --name {spec.name} removes what is left of it"
        what = f"lab {spec.name}"
    else:
        path = spec.machine(machine).paths.supervise_socket
        hint = f"netplane lab start --name {spec.name} {machine} boots it"
        what = f"machine {machine}"
    try:
        return supervisor.peer_pid(path)
    except PeerError:
        raise PeerError(f"cannot enter {what}: it is off", hint) from None


def environment(spec: LabSpec, machine: str, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a command in `machine` finds: its root, a kubeconfig, and our own `netplane` on PATH."""
    given = dict(os.environ if base is None else base)
    ours = str(Path(sys.executable).parent)
    given["PATH"] = f"{ours}:{given.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    given["KUBECONFIG"] = str(place.inside_kubeconfig(spec.directory))
    if machine != OUTSIDE:
        given["NETPLANE_ROOT"] = str(spec.machine(machine).root)
    return given


def become(spec: LabSpec, machine: str, command: Sequence[str]) -> None:
    """Replace this process by `command` in `machine`; returns only by raising."""
    words = argv(spec, machine, command)
    try:
        os.execvpe(words[0], words, environment(spec, machine))
    except OSError as error:
        raise KernelError(f"cannot run {words[0]}: {error.strerror}") from error
