"""What the kernel remembers of endpoints that are gone: UDP flows in conntrack, and clients of sticky Services.

A TCP connection to an endpoint that has left goes on while that endpoint lets it. A UDP client that keeps its socket
would be sent there for ever (and one that began before its Service had endpoints would never be sent anywhere), so its
flow is forgotten, and the next datagram chooses anew. Blocking: call from a thread.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from netplane.errors import KernelError
from netplane.linux import conntrack
from netplane.linux.conntrack import Flow, Wanted
from netplane.linux.nfnetlink import Edit, Tables, key_of, value_of
from proxy import routes
from proxy.diff import Changes
from proxy.model import Frontend, Protocol
from proxy.nftables.elements import Placed
from proxy.nftables.identity import Numbers, remembered_as
from proxy.nftables.names import FAMILY, TABLE, VERSIONS, clients, kinds

NUMBER = 4  # bytes of a key of ``clients``
TRIES = 10  # of a deletion: entries end by themselves meanwhile
Place = tuple[bytes, int]  # address (b"" for every one of the node) and port


@dataclass(frozen=True, slots=True)
class Stale:
    """UDP frontends that lost or gained endpoints, with those that they have now; and the same of sticky ones.

    ``held``: all UDP frontends at addresses, which a NodePort of the same number must not be taken for.
    ``sticky``: (IP version, number of a Service port) → endpoints that its clients may stay with.
    """

    flows: Mapping[Place, frozenset[bytes]]
    held: frozenset[Place]
    sticky: Mapping[tuple[int, bytes], frozenset[bytes]]

    def __bool__(self) -> bool:
        return bool(self.flows or self.sticky)

    @property
    def port(self) -> int:
        """The one at which all of these flows are called, else 0."""
        ports = {port for _, port in self.flows}
        return ports.pop() if len(ports) == 1 else 0

    def matches(self, flow: Flow, here: AbstractSet[bytes]) -> bool:
        """Whether a UDP flow leads where it should not. ``here``: this machine's addresses, packed."""
        called, answers = flow.called, flow.answers
        place = (called.destination, called.destination_port)
        now = self.flows.get(place)
        if now is None and place not in self.held and called.destination in here:
            now = self.flows.get((b"", called.destination_port))
        endpoint = answers.source + answers.source_port.to_bytes(2, "big") + b"\0\0"
        return now is not None and endpoint not in now and len(answers.source) == len(called.destination)


def find(
    before: Mapping[Frontend, Placed],
    after: Mapping[Frontend, Placed],
    frontends: Iterable[Frontend],
    numbers: Numbers,
) -> Stale:
    """What may be stale once ``frontends`` have changed. Pure."""
    flows: dict[Place, frozenset[bytes]] = {}
    sticky: dict[tuple[int, bytes], frozenset[bytes]] = {}
    for frontend in frontends:
        old, new = before.get(frontend), after.get(frontend)
        had, has = _endpoints(old), _endpoints(new)
        if frontend.protocol is Protocol.UDP and (had - has or not had):
            flows[_place(frontend)] = has
        if new is None or new.target.affinity is None:
            continue  # whoever is remembered is so in vain, and not for ever
        sure = old is not None and old.target.affinity is not None
        for kind, served, serves in zip(kinds(frontend), _pools(old), _pools(new), strict=True):
            if not sure or served - serves:
                number = numbers.of(remembered_as(frontend, new.target, kind))
                sticky[frontend.address.version, number] = serves
    held = frozenset(_place(f) for f in after if f.protocol is Protocol.UDP) if flows else frozenset()
    return Stale(flows, held, sticky)


def touched(changes: Changes) -> list[Frontend]:
    """The frontends that differ."""
    return [*changes.removed, *changes.changed, *changes.added]


def forget(stale: Stale, tables: Tables) -> None:
    """Make the kernel forget it. Raises KernelError."""
    if stale.flows:
        here = machines_addresses()
        conntrack.forget_where(
            lambda flow: stale.matches(flow, here), Wanted(protocol=conntrack.UDP, port=stale.port)
        )
    for version in VERSIONS:
        keys = {number: serves for (of, number), serves in stale.sticky.items() if of == version}
        if keys:
            _forget_clients(tables, clients(version), keys)


def machines_addresses() -> frozenset[bytes]:
    """Those at which NodePorts are served, packed. Raises KernelError."""
    return frozenset(a.packed for version in VERSIONS for a in routes.machines_addresses(version))


def _forget_clients(tables: Tables, name: str, keys: Mapping[bytes, frozenset[bytes]]) -> None:
    for left in reversed(range(TRIES)):
        known = tables.elements(FAMILY, TABLE, name) or {}
        gone = [head for head, tail in known.items() if _left(key_of(head)[:NUMBER], value_of(tail), keys)]
        if not gone:
            return
        try:
            tables.change(FAMILY, TABLE, [Edit(name, gone)])
        except KernelError:
            if not left:
                raise
        else:
            return


def _left(number: bytes, endpoint: bytes, keys: Mapping[bytes, frozenset[bytes]]) -> bool:
    return number in keys and endpoint not in keys[number]


def _place(frontend: Frontend) -> Place:
    return (frontend.address.packed if int(frontend.address) else b"", frontend.port)


def _pools(placed: Placed | None) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Those for the cluster's own clients, and those for others where they differ."""
    if placed is None:
        return frozenset(), frozenset()
    return frozenset(placed.inside), frozenset(placed.outside or ())


def _endpoints(placed: Placed | None) -> frozenset[bytes]:
    return frozenset().union(*_pools(placed))
