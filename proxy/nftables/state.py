"""What this process knows of the kernel's elements, and what a change of Services asks of them.

Why pure: all bookkeeping of a sync is here, and nothing of it talks to the kernel; where the kernel refuses, the state
is thrown away and read anew.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from netplane.linux import nfnetlink
from netplane.linux.nfnetlink import Edit
from proxy.diff import Changes
from proxy.model import Frontend, IPAddress, NodeFacts, Target
from proxy.nftables.elements import SHARED, Elements, Placed, chains, frontend_key, place
from proxy.nftables.identity import Numbers, remembered_as
from proxy.nftables.names import SETS, Chain, identities, kinds

Contents = dict[str, dict[bytes, bytes]]  # set → head → tail


@dataclass(frozen=True, slots=True)
class Work:
    """What the kernel is to be told: chains that must be there first, then one transaction of elements.

    ``moved``: the addresses outside the Service networks are not the same any more.
    """

    chains: frozenset[Chain]
    edits: tuple[Edit, ...]
    moved: bool


@dataclass(slots=True)
class State:
    """Every frontend with the slots of its endpoints, and how many frontends want an element that may be shared.

    ``singles``: the Services' addresses outside the Service networks, and how many frontends have them; ``own``: those
    that are led to this node (``proxy.singles``).
    ``rules``: those of each chain as the kernel has them; where it says otherwise, somebody has changed the table.
    """

    node: NodeFacts
    placed: dict[Frontend, Placed] = field(default_factory=dict)
    shared: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    chains: set[Chain] = field(default_factory=set)
    rules: dict[str, list[bytes]] = field(default_factory=dict)
    numbers: Numbers = field(default_factory=Numbers)
    singles: Counter[IPAddress] = field(default_factory=Counter)
    own: AbstractSet[IPAddress] = frozenset()
    elements: Elements = field(init=False)

    def __post_init__(self) -> None:
        self.elements = Elements(self.node, self.numbers)

    def lead(self, own: AbstractSet[IPAddress]) -> tuple[Edit, ...]:
        """These of ``singles`` are led to this node now; what that asks of the sets that say so."""
        changes = difference(dict.fromkeys(map(_own, self.own), b""), dict.fromkeys(map(_own, own), b""))
        self.own = own
        return changes

    def begin(
        self, targets: Mapping[Frontend, Target], known: Mapping[Frontend, Placed], there: Contents
    ) -> Contents:
        """All that these targets ask for. ``known``: how endpoints are placed already, where that is known.

        ``there``: what the kernel has, whose numbers of Service ports go on.
        """
        self.numbers.adopt(_numbered(targets, there))
        wanted: Contents = {name: {} for name in SETS}
        elements = self.elements.of
        for frontend, target in targets.items():
            placed = self.placed[frontend] = place(target, known.get(frontend))
            self.chains.update(chains(frontend, placed))
            self._count(frontend, 1)
            for name, head, tail in elements(frontend, placed):
                wanted[name][head] = tail
                if name in SHARED:
                    self.shared[name, head] += 1
        return wanted

    def follow(self, changes: Changes) -> Work:
        """What changes ask for; the state is then as if it had been done."""
        old: dict[tuple[str, bytes], bytes] = {}
        new: dict[tuple[str, bytes], bytes] = {}
        touched: Counter[tuple[str, bytes]] = Counter()
        needed: set[Chain] = set()
        elements = self.elements.of
        for frontend in (*changes.removed, *changes.changed):
            for name, head, tail in elements(frontend, self.placed[frontend]):
                if name in SHARED:
                    touched[name, head] -= 1
                else:
                    old[name, head] = tail
        for frontend in changes.removed:
            del self.placed[frontend]
        moved = [self._count(f, -1) for f in changes.removed] + [self._count(f, 1) for f in changes.added]
        for frontend, target in (*changes.changed.items(), *changes.added.items()):
            placed = self.placed[frontend] = place(target, self.placed.get(frontend))
            needed.update(chains(frontend, placed))
            for name, head, tail in elements(frontend, placed):
                if name in SHARED:
                    touched[name, head] += 1
                else:
                    new[name, head] = tail
        self._share(touched, old, new)
        fresh = frozenset(needed - self.chains)
        self.chains |= needed
        return Work(fresh, difference(old, new), moved=any(moved))

    def _count(self, frontend: Frontend, by: int) -> bool:
        """Whether its address is a new one of ``singles``, or nobody's any more."""
        address = frontend.address
        if not self.elements.is_single(address):
            return False
        before = self.singles[address]
        self.singles[address] += by
        if not self.singles[address]:
            del self.singles[address]
        return not before or not before + by

    def _share(
        self,
        touched: Counter[tuple[str, bytes]],
        old: dict[tuple[str, bytes], bytes],
        new: dict[tuple[str, bytes], bytes],
    ) -> None:
        """Shared elements come with the first frontend that wants them, and go with the last."""
        for key, count in touched.items():
            before = self.shared[key]
            self.shared[key] += count
            if before and not self.shared[key]:
                old[key] = b""
            elif not before and self.shared[key]:
                new[key] = b""
            if not self.shared[key]:
                del self.shared[key]


def difference(
    old: Mapping[tuple[str, bytes], bytes], new: Mapping[tuple[str, bytes], bytes]
) -> tuple[Edit, ...]:
    """What turns one into the other, a set at a time."""
    gone: dict[str, list[bytes]] = {}
    come: dict[str, dict[bytes, bytes]] = {}
    for (name, head), tail in old.items():
        if new.get((name, head)) != tail:
            gone.setdefault(name, []).append(head)
    for (name, head), tail in new.items():
        if old.get((name, head)) != tail:
            come.setdefault(name, {})[head] = tail
    names = dict.fromkeys((*gone, *come))
    return tuple(Edit(name, gone.get(name, ()), come.get(name)) for name in names)


def _own(address: IPAddress) -> tuple[str, bytes]:
    return f"addresses{address.version}", nfnetlink.head(address.packed)


def _numbered(targets: Mapping[Frontend, Target], there: Contents) -> Iterator[tuple[str, bytes]]:
    """Under which numbers the kernel remembers the clients of these targets."""
    for frontend, target in targets.items():
        if target.affinity is not None:
            for kind in kinds(frontend):
                known = there.get(identities(kind, frontend.address.version), {})
                if tail := known.get(nfnetlink.head(frontend_key(frontend))):
                    yield remembered_as(frontend, target, kind), nfnetlink.value_of(tail)


def mending(there: Contents, wanted: Contents) -> tuple[Edit, ...]:
    """What turns the kernel's elements into the wanted ones."""
    edits = []
    for name, elements_wanted in wanted.items():
        have = there.get(name, {})
        gone = [head for head, tail in have.items() if elements_wanted.get(head) != tail]
        come = {head: tail for head, tail in elements_wanted.items() if have.get(head) != tail}
        if gone or come:
            edits.append(Edit(name, gone, come))
    return tuple(edits)
