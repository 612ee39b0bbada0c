"""Asks a lab how it is, and has it cut or give power to a machine."""

from dataclasses import dataclass
from typing import Any

from netplane.errors import PeerError
from netplane.lab import place
from netplane.lab.spec import LabSpec
from netplane.node.supervise import control as supervisor


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """One daemon of one machine."""

    machine: str
    name: str
    state: str
    restarts: int
    status: str
    log: str


@dataclass(frozen=True, slots=True)
class LabStatus:
    """A lab as it is now; `machines` is empty if its PID 1 is dead."""

    name: str
    alive: bool
    machines: tuple[dict[str, Any], ...]
    daemons: tuple[DaemonStatus, ...]

    @property
    def works(self) -> bool:
        """Every machine is on and every daemon runs."""
        powered = all(machine["power"] == "on" for machine in self.machines)
        return self.alive and powered and all(daemon.state == "running" for daemon in self.daemons)


def status(spec: LabSpec) -> LabStatus:
    """What the lab and its machines say of themselves."""
    try:
        machines = supervisor.ask(place.socket_of(spec.directory), {"op": "status"})["machines"]
    except PeerError:
        return LabStatus(spec.name, False, (), ())
    return LabStatus(spec.name, True, tuple(machines), tuple(_daemons(spec)))


def _daemons(spec: LabSpec) -> list[DaemonStatus]:
    found = []
    for machine in spec.machines:
        try:
            answer = supervisor.ask(machine.paths.supervise_socket, {"op": "status"})
        except PeerError:
            continue
        found += [
            DaemonStatus(machine.name, one["name"], one["state"], one["restarts"], one["status"], one["log"])
            for one in answer["daemons"]
        ]
    return found


def power(spec: LabSpec, operation: str, machine: str) -> None:
    """`kill` or `start` a machine. Raises ConfigError for an unknown machine, PeerError with the lab's refusal."""
    spec.machine(machine)
    supervisor.ask(place.socket_of(spec.directory), {"op": operation, "machine": machine}, timeout=30.0)
