"""What all targets together ask of the node's plumbing, kept at the cost of what changed.

Why counted: a rule or a route is there as long as any target asks for it, and ten thousand of them need not be
asked again because one has changed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial

from proxy.diff import diff
from proxy.model import Frontend, IPAddress, NodeFacts, Pool, Protocol, Snapshot, Target, WhenEmpty
from proxy.userspace.plumbing import Plan
from proxy.userspace.ruleset import Drop
from proxy.userspace.sources import within

Demand = IPAddress | Drop | tuple[Protocol, int]


class Demands:
    """Follows the snapshots of one data path."""

    def __init__(self) -> None:
        self._seen: Mapping[Frontend, Target] = {}
        self._counts: Counter[Demand] = Counter()
        self._plan: Plan | None = None

    def plan(self, want: Snapshot) -> Plan:
        """What this snapshot asks of the plumbing; the same value again where that is what the last one asked."""
        if self._plan is None or self._plan.node != want.node:
            self._seen, self._counts, self._plan = {}, Counter(), None
        changes = diff(self._seen, want.targets)
        moved: Counter[Demand] = Counter()
        for frontend, target in {**changes.added, **changes.changed}.items():
            moved.update(_demands(frontend, target, want.node))
        for frontend in {*changes.changed, *changes.removed}:
            moved.subtract(_demands(frontend, self._seen[frontend], want.node))
        self._seen = want.targets
        others = [demand for demand, by in moved.items() if self._move(demand, by)]
        if others or self._plan is None:
            self._plan = self._made(want.node)
        return self._plan

    def _move(self, demand: Demand, by: int) -> bool:
        """Count it; whether it is new, or nobody's any more."""
        before = self._counts[demand]
        self._counts[demand] = before + by
        if not self._counts[demand]:
            del self._counts[demand]
        return bool(before) != bool(before + by)

    def _made(self, node: NodeFacts) -> Plan:
        drops = frozenset(demand for demand in self._counts if isinstance(demand, Drop))
        ports = frozenset(demand for demand in self._counts if isinstance(demand, tuple))
        others = frozenset(d for d in self._counts if not isinstance(d, Drop | tuple))
        return Plan(node, others, drops, ports)


def plan_of(want: Snapshot) -> Plan:
    """What a snapshot asks of the plumbing."""
    return Demands().plan(want)


def _demands(frontend: Frontend, target: Target, node: NodeFacts) -> Iterator[Demand]:
    address = frontend.address
    if not (address.is_unspecified or address.is_loopback or within(address, node.service_cidrs)):
        yield address
    if frontend.protocol not in (Protocol.TCP, Protocol.UDP):
        return
    where = None if address.is_unspecified else address
    if where is None and node.node_port_networks:
        yield (frontend.protocol, frontend.port)
    at = partial(Drop, address.version, where, frontend.port, protocol=frontend.protocol)
    if _silent(target.outside):
        yield at(everyone=_silent(target.inside))
    if target.allowed:
        yield at(allowed=target.allowed)


def _silent(pool: Pool) -> bool:
    return not pool.endpoints and pool.when_empty is WhenEmpty.DROP
