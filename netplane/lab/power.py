"""The lab's PID 1: owns the underlay, gives machines power and cuts it.

It boots `netplane supervise` as PID 1 of each machine, in namespaces of the machine's own, and answers the
lab's socket. Its own end is the end of everything in the lab; and until `lab up` has said that the lab is to
stay, the end of `lab up` is its own.

    python -m netplane.lab.power DIRECTORY      (started by `lab up` only)
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from socket import socket

from netplane.errors import ConfigError, KernelError
from netplane.lab import place, topology
from netplane.lab.spec import LabSpec, Machine
from netplane.node.supervise import control as supervisor
from netplane.node.supervise import logs, process
from netplane.node.supervise.control import Answer
from netplane.node.supervise.files import API_LOOPBACK
from netplane.node.supervise.notify import Held
from netplane.node.supervise.process import Reaper
from netplane.runner import Daemon, run

log = logging.getLogger(__name__)

LIFELINE = "lifeline"
KEEP = b"keep"
# What every machine does between power and PID 1: its name is its own, and it is in its cgroup.
BOOT = 'echo "$1" > /proc/sys/kernel/hostname; shift; exec "$@"'
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL", "--mount-proc")


async def serve(directory: Path, daemon: Daemon) -> None:
    """Make the underlay, boot every machine, answer until told to stop."""
    spec = LabSpec.from_json(json.loads(place.record_of(directory).read_text()))
    (lifeline,) = daemon.listeners[LIFELINE]
    await asyncio.to_thread(topology.make_underlay)
    with Reaper() as reaper:
        house = _House(spec, daemon.listeners[API_LOOPBACK], reaper)
        server = await supervisor.answer(supervisor.listen(place.socket_of(directory)), house.respond)
        async with asyncio.TaskGroup() as tasks:
            held = tasks.create_task(_hold(lifeline, daemon))
            for machine in spec.machines:
                await house.start(machine)
            await daemon.stopping.wait()
            held.cancel()
        server.close()


async def _hold(lifeline: socket, daemon: Daemon) -> None:
    """Stop the lab if `lab up` ends before it says that the lab is to stay."""
    lifeline.setblocking(False)
    said = await asyncio.get_running_loop().sock_recv(lifeline, len(KEEP))
    if said == KEEP:
        log.info("the lab stays")
    else:
        log.warning("lab up has ended before the lab was whole: ending too")
        daemon.stopping.set()
    lifeline.close()


class _House:
    """The machines that have power."""

    def __init__(self, spec: LabSpec, api: Sequence[socket], reaper: Reaper) -> None:
        self._spec = spec
        self._api = [Held(API_LOOPBACK, os.dup(one.fileno())) for one in api]
        self._reaper = reaper
        self._on: dict[str, tuple[int, asyncio.Future[int], topology.Wired]] = {}

    async def respond(self, request: Answer) -> Answer:
        """status, kill MACHINE, start MACHINE."""
        operation = request.get("op")
        if operation == "status":
            return {"machines": [self._status(machine) for machine in self._spec.machines]}
        machine = self._spec.machine(str(request.get("machine")))
        if operation == "kill":
            await self.kill(machine)
        elif operation == "start":
            await self.start(machine)
        else:
            raise ConfigError(f"cannot carry out {operation!r}: status, kill and start are what a lab does")
        return {}

    def _status(self, machine: Machine) -> Answer:
        is_on = self._is_on(machine)
        return {"name": machine.name, "address": str(machine.address), "power": "on" if is_on else "off"}

    def _is_on(self, machine: Machine) -> bool:
        return machine.name in self._on and not self._on[machine.name][1].done()

    async def start(self, machine: Machine) -> None:
        """Give power. Raises ConfigError if the machine has it already."""
        if self._is_on(machine):
            raise ConfigError(
                f"cannot start {machine.name}: it is on", f"netplane lab kill {machine.name} cuts it"
            )
        if machine.name in self._on:
            await self._release(machine)  # it had ended by itself
        shutil.rmtree(machine.root / "run", ignore_errors=True)  # gone at every boot
        wired = await asyncio.to_thread(topology.wire, machine, nat_interface=self._spec.nat_interface)
        output = logs.open_for_append(machine.paths.logs / "supervise.log")
        try:
            place.daemons_cgroup(machine).create()
            pid = process.spawn(
                boot_command(machine, wired.netns),
                output=output,
                held=self._api if machine.is_master else (),
                init=True,
            )
        except BaseException:
            wired.close()
            raise
        finally:
            os.close(output)
        self._on[machine.name] = (pid, self._reaper.expect(pid), wired)
        log.info("%s is on", machine.name)

    async def kill(self, machine: Machine) -> None:
        """Cut the power: every process of the machine ends now, and its network with it."""
        if not self._is_on(machine):
            raise ConfigError(
                f"cannot kill {machine.name}: it is off", f"netplane lab start {machine.name} boots it"
            )
        pid, ended, _wired = self._on[machine.name]
        for first in _children(pid):  # PID 1 of the machine: unshare waits for it
            process.send(first, signal.SIGKILL)
        try:
            async with asyncio.timeout(10):
                await asyncio.shield(ended)
        except TimeoutError:
            raise KernelError(f"cannot kill {machine.name}: its PID 1 does not die") from None
        await self._release(machine)
        log.info("%s is off", machine.name)

    async def _release(self, machine: Machine) -> None:
        _pid, _ended, wired = self._on.pop(machine.name)
        await asyncio.to_thread(topology.unwire, machine)
        wired.close()


def boot_command(machine: Machine, netns: int) -> list[str]:
    """From the lab's PID 1 to the machine's: cgroup, network, the other namespaces, name, supervisor."""
    cgroup = place.daemons_cgroup(machine)
    return [
        *joining([str(path) for path in cgroup.procs]),
        *("nsenter", f"--net=/proc/1/fd/{netns}", "--", "unshare", *NAMESPACES, "--"),
        *("/bin/sh", "-c", BOOT, "sh", machine.name),
        *(sys.executable, "-m", "netplane", "supervise", "--root", str(machine.root)),
    ]


def joining(procs: Sequence[str]) -> list[str]:
    """The words that put a process into cgroups and out of our directory, before those of what it becomes."""
    join = "".join(f"echo 0 > {path}; " for path in procs)
    return ["/bin/sh", "-ec", f'cd /; {join}exec "$@"', "sh"]


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def main(directory: Path) -> int:
    """Run the lab in `directory` until told to stop."""
    return run(lambda daemon: serve(directory, daemon), name=f"lab {directory.name}", loop="asyncio")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
