"""Many threads with one kind of work that costs as much for fifty as for one: a commit to the disk, a deletion
that the kernel waits for.

Whoever comes while nothing is under way does its own work at once, in its own thread. Whoever comes meanwhile is
done in one go with all the others who came, as soon as that ends.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    turn: threading.Event | None = None
    leads: bool = True
    result: Result | None = None
    failure: BaseException | None = None


class Bursts(Generic[Item, Result]):
    """``work`` gets the items of a burst, in the order they came, and answers each with a result or a failure.

    It runs in one thread at a time. What it raises is every item's failure.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result | BaseException]]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[_Entry[Item, Result]] = []
        self._busy = False

    def __call__(self, item: Item) -> Result:
        """Have ``item`` done: its result, or its failure raised."""
        entry: _Entry[Item, Result] = _Entry(item)
        with self._lock:
            if self._busy:
                entry.turn, entry.leads = threading.Event(), False
            self._waiting.append(entry)
            self._busy = True
        if entry.turn is not None:
            entry.turn.wait()
        if entry.leads:
            self._lead()
        if entry.failure is not None:
            raise entry.failure
        return entry.result  # type: ignore[return-value]  # without a failure there is a result

    def _lead(self) -> None:
        with self._lock:
            burst, self._waiting = self._waiting, []
        try:
            for entry, outcome in zip(burst, self._work([e.item for e in burst]), strict=True):
                if isinstance(outcome, BaseException):
                    entry.failure = outcome
                else:
                    entry.result = outcome
        except BaseException as error:  # noqa: BLE001 - raised in each item's own thread
            for entry in burst:
                entry.failure = error
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._busy = following is not None
            if following is not None:
                following.leads = True
                burst = [following, *burst]
            for entry in burst:
                if entry.turn is not None:
                    entry.turn.set()
