"""The nftables data path: keeps the table true to a snapshot, changing elements in place.

Why nothing is ever flushed: connections follow their entries in conntrack, and those live with the table's chains. So
a first sync reads what the kernel has and changes what differs; later ones change what has changed.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic

from netplane.errors import KernelError
from netplane.linux import nft
from netplane.linux.nfnetlink import Tables
from proxy import routes
from proxy.datapath import SyncReport
from proxy.diff import Changes, diff
from proxy.model import Frontend, NodeFacts, Snapshot, Target
from proxy.nftables import observe, ruleset, stale
from proxy.nftables.choosing import rules_of
from proxy.nftables.elements import Elements, Placed
from proxy.nftables.names import FAMILY, TABLE
from proxy.nftables.state import State, mending
from proxy.targets import copied

FEW = 16  # frontends whose change takes less than a millisecond
MEND_EVERY = 30.0  # seconds after which a sync looks at the kernel again though nothing has changed


class NftablesDataPath:
    """See ``proxy.datapath.DataPath``. Works on the network namespace of the loop's thread."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._tables: Tables | None = None
        self._state: State | None = None
        self._targets: Mapping[Frontend, Target] = {}
        self._looked_at = 0.0

    @property
    def name(self) -> str:
        """The mode's name."""
        return "nftables"

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        """What was synced last."""
        return self._targets

    async def sync(self, want: Snapshot, *, look: bool = False) -> SyncReport:
        """Chains and elements as one transaction. Raises KernelError naming the step."""
        if not want.node.addresses:
            raise KernelError(f"cannot forward on node {want.node.name}: it has no address yet")
        # It stays open: closing one waits for what was deleted to be released.
        tables = self._tables = self._tables or Tables()
        changes = diff(self._targets, want.targets)
        state, self._state = self._state, None  # where this fails, the kernel is looked at again
        done: list[str] = []
        due = look or self._clock() - self._looked_at >= MEND_EVERY
        if state is None or state.node != want.node or due:
            targets, frontends = copied(want.targets), stale.touched(changes)
            self._state, done = await asyncio.to_thread(_mend, tables, want.node, targets, state, frontends)
            self._looked_at = self._clock()
        else:
            self._state = await _follow(tables, state, changes)
        self._targets = want.targets
        counts = (len(changes.added), len(changes.changed), len(changes.removed))
        return SyncReport(want.revision, *counts, done=tuple(done))

    async def observe(self) -> Mapping[Frontend, Target]:
        """What the kernel's elements say; a target that they agree with is given in full."""
        state = self._state
        if state is None:
            return await asyncio.to_thread(observe.targets)
        return await asyncio.to_thread(_observed, state.elements, dict(state.placed), dict(state.rules))

    async def count(self) -> int:
        """See ``proxy.datapath.DataPath``: of the elements only those are listed that a look-up begins at."""
        rules = dict(self._state.rules) if self._state is not None else {}
        return await asyncio.to_thread(_counted, rules)

    async def close(self, *, keep: bool) -> None:
        """End. ``keep``: the kernel goes on by itself."""
        self._state, self._targets = None, {}
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        if not keep:
            await asyncio.to_thread(remove)


def remove() -> None:
    """Take everything away; what is not there is fine."""
    nft.delete_table(FAMILY, TABLE)
    routes.remove()


def _observed(
    elements: Elements, placed: Mapping[Frontend, Placed], rules: Mapping[str, list[bytes]]
) -> Mapping[Frontend, Target]:
    if not _are_there(rules):
        return {}
    contents = observe.read()
    found = observe.decode(contents)
    for frontend, known in placed.items():
        own = elements.of(frontend, known)
        if all(contents.get(name, {}).get(head) == tail for name, head, tail in own):
            found[frontend] = known.target
    return found


def _counted(rules: Mapping[str, list[bytes]]) -> int:
    return observe.count() if _are_there(rules) else 0


def _are_there(rules: Mapping[str, list[bytes]]) -> bool:
    """Whether what leads to the elements is as it was left; False where it has gone, or somebody has changed it."""
    with Tables() as tables:
        there = tables.rules(FAMILY, TABLE)
    return all(there.get(chain) == said for chain, said in rules.items())


def _mend(
    tables: Tables,
    node: NodeFacts,
    targets: Mapping[Frontend, Target],
    before: State | None,
    touched: Sequence[Frontend],
) -> tuple[State, list[str]]:
    """Compare all that is wanted with all that is there; ``touched`` differ from ``before``. Blocking.

    Besides the state: what was changed, in words.
    """
    state = State(node, numbers=before.numbers) if before is not None else State(node)
    intact = before is not None and before.node == node and before.rules == tables.rules(FAMILY, TABLE)
    if not intact:
        _load(ruleset.declare())
    there = observe.read()
    wanted = state.begin(targets, before.placed if before is not None else {}, there)
    led = routes.ensure(node, state.singles, sockets=False)
    done = led.done
    for edit in state.lead(led.singles.own):
        wanted[edit.name] |= edit.add or {}
    chains = state.chains
    if before is not None and intact:
        chains = state.chains - before.chains
        state.chains |= before.chains
    edits = mending(there, wanted)
    tables.change(FAMILY, TABLE, edits, map(rules_of, chains))
    if not intact:
        _load(ruleset.frame(node))
        done.append(f"nft table {FAMILY} {TABLE}")
    elif edits:
        number = sum(len({*edit.delete, *(edit.add or ())}) for edit in edits)
        done.append(f"{number} elements of nft table {FAMILY} {TABLE}")
    state.rules = tables.rules(FAMILY, TABLE)
    # Whoever was here before this process may have died between a change and its consequences.
    gone = (
        stale.find(before.placed, state.placed, touched, state.numbers)
        if before
        else stale.find({}, state.placed, state.placed, state.numbers)
    )
    stale.forget(gone, tables)
    return state, done


async def _follow(tables: Tables, state: State, changes: Changes) -> State:
    """Change what has changed; where it fails, ``state`` is worth nothing any more."""
    frontends = stale.touched(changes)
    few = len(frontends) <= FEW
    before = {frontend: state.placed[frontend] for frontend in frontends if frontend in state.placed}
    work = state.follow(changes) if few else await asyncio.to_thread(state.follow, changes)
    edits = work.edits
    if work.moved:
        lead = partial(routes.ensure, state.node, list(state.singles), sockets=False)
        edits += state.lead((await asyncio.to_thread(lead)).singles.own)
    chains = [rules_of(chain) for chain in work.chains]
    change = partial(tables.change, FAMILY, TABLE, edits, chains)
    if few:
        change()  # sooner done than handed to a thread
    else:
        await asyncio.to_thread(change)
    if chains:
        there = await asyncio.to_thread(tables.rules, FAMILY, TABLE)
        state.rules |= {chain.name: there[chain.name] for chain in chains if chain.name in there}
    if gone := stale.find(before, state.placed, frontends, state.numbers):
        await asyncio.to_thread(stale.forget, gone, tables)
    return state


def _load(script: str) -> None:
    try:
        nft.apply(script)
    except KernelError as error:
        raise KernelError(
            f"cannot load nft table {FAMILY} {TABLE}: {error.message}",
            "The kernel needs nf_tables with NAT, numgen and fib (Linux 5.15 or newer); mode userspace works without",
        ) from None
