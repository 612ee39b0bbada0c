"""The difference between what is forwarded and what is wanted, so that a sync costs what changed.

Why pure: the law ``apply(have, diff(have, want)) == want`` is what every data path leans on.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from proxy.model import Frontend, Target
from proxy.targets import Targets, copied


@dataclass(frozen=True, slots=True)
class Changes:
    """Frontends to open, to point elsewhere, and to close. ``changed`` holds the new targets."""

    added: Mapping[Frontend, Target]
    changed: Mapping[Frontend, Target]
    removed: frozenset[Frontend]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def diff(have: Mapping[Frontend, Target], want: Mapping[Frontend, Target]) -> Changes:
    """What turns ``have`` into ``want``.

    A data path that keeps the very mapping it synced last pays for what changed since, however many
    frontends there are; any other mapping is compared as a whole.
    """
    touched = have.touched_until(want) if isinstance(have, Targets) else None
    if touched is None:
        return _between(copied(have), copied(want))
    return _between(_part(have, touched), _part(want, touched))


def apply(have: Mapping[Frontend, Target], changes: Changes) -> dict[Frontend, Target]:
    """``have`` after ``changes``; a new mapping."""
    kept = {frontend: target for frontend, target in have.items() if frontend not in changes.removed}
    return {**kept, **changes.changed, **changes.added}


def _between(have: Mapping[Frontend, Target], want: Mapping[Frontend, Target]) -> Changes:
    return Changes(
        added={frontend: target for frontend, target in want.items() if frontend not in have},
        changed={f: target for f, target in want.items() if f in have and have[f] != target},
        removed=frozenset(frontend for frontend in have if frontend not in want),
    )


def _part(targets: Mapping[Frontend, Target], among: AbstractSet[Frontend]) -> Mapping[Frontend, Target]:
    return {frontend: targets[frontend] for frontend in among if frontend in targets}
