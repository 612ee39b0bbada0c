"""The contract between the proxy and whatever moves its packets.

Why so narrow: each data path is told the whole truth and finds the difference itself, so a lost event, a
restart and a first start are one case. The same suite of tests holds all of them to this page.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.model import Frontend, ServicePort, Snapshot, Target


@dataclass(frozen=True, slots=True)
class Unserved:
    """A frontend that is wanted and does not work, and why.

    ``again``: the cause lies outside netplane (a port taken by another process), so trying again may help;
    otherwise this data path cannot serve such a frontend at all.
    """

    frontend: Frontend
    service: ServicePort
    reason: str
    again: bool

    def __str__(self) -> str:
        return f"{self.service} at {self.frontend}: {self.reason}"


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one sync did: numbers of frontends, and by name what is wanted and does not work."""

    revision: int
    added: int = 0
    changed: int = 0
    removed: int = 0
    unserved: tuple[Unserved, ...] = ()
    warnings: tuple[str, ...] = ()  # settings of the node that spoil something, each with its remedy
    done: tuple[str, ...] = ()  # what else was changed in the kernel, in words: routes, rules, tables, hooks

    @property
    def incomplete(self) -> bool:
        """Whether a later sync of the same snapshot may do better."""
        return any(entry.again for entry in self.unserved)


class DataPath(Protocol):
    """One way of forwarding.

    ``sync`` is idempotent and applies the difference; it raises KernelError naming the step, and then what
    was forwarded before still is. Now and then (``look``: now) it also looks whether the kernel is still as it was
    left, and mends it. ``observe`` reads the kernel, not memory. ``close(keep=True)`` ends this
    process's part and leaves the kernel's as it is; ``close(keep=False)`` removes every trace.
    """

    @property
    def name(self) -> str:
        """The mode's name: userspace, nftables, ebpf."""
        ...

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        """What was synced last, and works: this process's own word, which ``observe`` holds against the kernel's."""
        ...

    async def sync(self, want: Snapshot, *, look: bool = False) -> SyncReport:
        """Make it so."""
        ...

    async def observe(self) -> Mapping[Frontend, Target]:
        """What is being forwarded, as the kernel tells it."""
        ...

    async def count(self) -> int:
        """How many frontends ``observe`` would give, in a fraction of its time."""
        ...

    async def close(self, *, keep: bool) -> None:
        """End it."""
        ...
