"""What a lab consists of, before anything is made: names, addresses, directories. Decided here, made elsewhere."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from netplane.config import Paths
from netplane.errors import ConfigError

LABS = Path("/var/lib/netplane/labs")
UNDERLAY = IPv4Network("192.168.77.0/24")
OUTSIDE = "outside"
OUTSIDE_ADDRESS = UNDERLAY[1]  # the bridge's
# What VirtualBox gives the first interface of every machine, the same to all of them.
NAT_ADDRESS = IPv4Interface("10.0.2.15/24")
NAT_GATEWAY = IPv4Interface("10.0.2.2/24")
API_PORT = 6443
MOST_NODES = 9
_FIRST_MASTER = 10
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?")
_SERVED = {"mode": ("auto", "userspace", "nftables", "ebpf"), "store": ("sqlite",), "overlay": ("routes",)}


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: its directory is its root, its address is on the underlay."""

    name: str
    address: IPv4Address
    root: Path
    is_master: bool

    @property
    def paths(self) -> Paths:
        """Where its files are."""
        return Paths(self.root)


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What was asked of `lab up`. Raises ConfigError naming the option that is wrong or not served."""

    name: str = "lab"
    nodes: int = 3
    masters: int = 1
    mode: str = "userspace"
    store: str = "sqlite"
    overlay: str = "routes"
    nat_interface: bool = False
    node_monitor_grace_period_seconds: float = 4.0
    pod_eviction_timeout_seconds: float = 2.0

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= self.nodes <= MOST_NODES:
            raise ConfigError(
                f"cannot make lab {self.name}: --nodes is from 1 to {MOST_NODES}, not {self.nodes}"
            )
        if self.masters != 1:
            raise ConfigError(
                f"cannot make lab {self.name}: --masters {self.masters} is not served by netplane yet",
                "One control plane machine is",
            )
        for option, served in _SERVED.items():
            value = getattr(self, option)
            if value not in served:
                raise ConfigError(
                    f"cannot make lab {self.name}: --{option} {value} is not served by netplane yet",
                    f"--{option} {' or '.join(served)} is",
                )

    @property
    def directory(self) -> Path:
        """All files of the lab."""
        return LABS / self.name

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The control plane first."""
        return tuple(machine(self.directory, name) for name in (*self._masters, *self._nodes))

    @property
    def _masters(self) -> list[str]:
        return [f"m{number}" for number in range(1, self.masters + 1)]

    @property
    def _nodes(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def server(self) -> str:
        """The API's URL inside the lab."""
        return f"https://{self.machines[0].address}:{API_PORT}"

    def machine(self, name: str) -> Machine:
        """The machine of that name. Raises ConfigError naming those there are."""
        for one in self.machines:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.machines)
        raise ConfigError(
            f"cannot find machine {name!r} in lab {self.name}: it has {known}",
            f'"netplane lab exec" takes "{OUTSIDE}", too, the lab\'s own network',
        )

    def as_json(self) -> dict[str, Any]:
        """For the lab's own record."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "LabSpec":
        """Read that record."""
        return cls(**document)


def check_name(name: str) -> None:
    """Raise ConfigError unless `name` can be a lab's: it becomes part of paths, and a socket's path is short."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"cannot name a lab {name!r}: a name is 1 to 16 of a-z, 0-9 and '-', and neither starts nor ends with '-'"
        )


def machine(directory: Path, name: str) -> Machine:
    """Machine m1 is .10 on the underlay, n1 .11, n2 .12, and so on."""
    number = int(name[1:])
    is_master = name.startswith("m")
    address = UNDERLAY[_FIRST_MASTER - 1 + number] if is_master else UNDERLAY[_FIRST_MASTER + number]
    return Machine(name, address, directory / name, is_master)


def every_possible_machine(directory: Path) -> list[Machine]:
    """All machines that a lab in `directory` can ever have had: what `lab down` looks for, records or not."""
    return [machine(directory, f"{kind}{number}") for kind in "mn" for number in range(1, MOST_NODES + 1)]
