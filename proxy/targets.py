"""Frontends and their targets as a mapping that never changes, of which the next version costs what changed.

Why our own: ten thousand Services change one endpoint at a time, and neither the copy of a dictionary nor the
comparison of two may be paid for that. The newest version has the dictionary; an older one, should anybody
still have it, knows what was different in it and who came after it (Baker's trick: "Shallow binding makes
functional arrays fast", 1991). Not for use in two threads: ``copy`` gives a plain dictionary to another one.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from proxy.model import Frontend, Target

Edit = Mapping[Frontend, Target | None]  # None: not there


class Targets(Mapping[Frontend, Target]):
    """One version, of whose parts others keep their hands: ``held`` is everything, in the newest version only;
    ``later`` is the one after this, and ``undo`` where it differs from that.
    """

    __slots__ = ("held", "later", "undo")

    def __init__(self, held: Mapping[Frontend, Target] | None = None) -> None:
        self.held: dict[Frontend, Target] = dict(held or {})
        self.later: Targets | None = None
        self.undo: Edit = {}

    def derive(self, edit: Edit) -> "Targets":
        """The version after this one; the cost is that of the edit, when this one is the newest."""
        if self.later is not None:
            return Targets(self.copy()).derive(edit)
        later = Targets()
        later.held, self.held = self.held, {}
        self.undo = {frontend: later.held.get(frontend) for frontend in edit}
        self.later = later
        for frontend, target in edit.items():
            if target is None:
                later.held.pop(frontend, None)
            else:
                later.held[frontend] = target
        return later

    def copy(self) -> dict[Frontend, Target]:
        """All of it, as a dictionary of the caller's own."""
        versions: list[Targets] = [self]
        while (later := versions[-1].later) is not None:
            versions.append(later)
        found = versions.pop().held.copy()
        for older in reversed(versions):
            for frontend, target in older.undo.items():
                if target is None:
                    found.pop(frontend, None)
                else:
                    found[frontend] = target
        return found

    def touched_until(self, newer: Mapping[Frontend, Target]) -> AbstractSet[Frontend] | None:
        """All frontends in which ``newer`` can differ; None where it was not made from this version."""
        touched: dict[Frontend, Target | None] = {}
        at: Targets | None = self
        while at is not None and at is not newer:
            for frontend, target in at.undo.items():
                touched.setdefault(frontend, target)
            at = at.later
        if at is None:
            return None
        if at is not self:
            self.later, self.undo = at, touched  # the versions between are nobody's business any more
        return touched.keys()

    def __getitem__(self, frontend: Frontend) -> Target:
        at = self
        while at.later is not None:
            if frontend in at.undo:
                found = at.undo[frontend]
                if found is None:
                    raise KeyError(frontend)
                return found
            at = at.later
        return at.held[frontend]

    def __iter__(self) -> Iterator[Frontend]:
        return iter(self.held if self.later is None else self.copy())

    def __len__(self) -> int:
        return len(self.held if self.later is None else self.copy())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        touched = self.touched_until(other)
        if touched is None and isinstance(other, Targets):
            touched = other.touched_until(self)
        if touched is not None:
            return all(self.get(frontend) == other.get(frontend) for frontend in touched)
        return self.copy() == copied(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Targets({self.copy()!r})"


def copied(targets: Mapping[Frontend, Target]) -> dict[Frontend, Target]:
    """A plain dictionary of the caller's own."""
    return targets.copy() if isinstance(targets, Targets) else dict(targets)
