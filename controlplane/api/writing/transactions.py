"""One write: read from memory, decide, compare-and-swap; decide again if somebody was faster.

Every rule that looks at other objects hands out a guard, and the guard is part of the same commit. So two writers
(in one process or, on a shared store, in several) can never both be right about a free port.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from controlplane.api.kinds.kind import Kind
from controlplane.api.memory.hub import Hub
from controlplane.api.memory.records import Record, key_for, stored
from controlplane.store.contract import Delete, Operation, Put, Stale
from netplane.kube.errors import conflict
from netplane.kube.objects import Object

ATTEMPTS = 16


class Act(Enum):
    """What is to happen to the key."""

    KEEP = "keep"
    PUT = "put"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a write comes to, given what is there: the object to answer with, and the guards of the commit."""

    act: Act
    obj: Object
    guards: tuple[Operation, ...] = ()


Decide = Callable[[Record | None], Decision]


async def transact(
    hub: Hub, kind: Kind, namespace: str, name: str, decide: Decide, *, dry_run: bool
) -> Decision:
    """Do what ``decide`` says to one object; the decision that was carried out comes back.

    The object of a PUT or REMOVE carries the revision that it was written at. Raises what ``decide`` raises,
    StoreError, and StatusError 409 if others were faster ATTEMPTS times in a row.
    """
    key = key_for(kind.resource, namespace, name)
    done = await _attempt(hub, kind, key, decide, dry_run)
    if done is not None:
        return done
    async with hub.turn(kind.resource):  # those who lost a race queue up, so that each of them wins in time
        for _ in range(ATTEMPTS):
            done = await _attempt(hub, kind, key, decide, dry_run)
            if done is not None:
                return done
    raise conflict(kind.resource, name, "other writers were faster; please try again")


async def _attempt(hub: Hub, kind: Kind, key: str, decide: Decide, dry_run: bool) -> Decision | None:
    """Decide and commit once; None if what was decided on is no longer so."""
    record = hub.get(kind.resource, key)
    decision = decide(record)
    if decision.act is Act.KEEP or dry_run:
        return decision
    expected = record.revision if record is not None else 0
    write: Operation = Delete(key, expected)
    if decision.act is Act.PUT:
        write = Put(key, stored(decision.obj), expected)
    try:
        revision = await hub.store.commit(write, *decision.guards)
    except Stale:
        return None
    decision.obj["metadata"]["resourceVersion"] = str(revision)
    return decision
