"""Which object to look at next: the one place where controllers meet bursts, failures and time.

Laws of ``QueueCore``: a key is with at most one worker at a time; a key added while a worker has it comes back
once; adding twice is adding once; a failed key comes back after a delay that doubles from ``first`` to ``limit``
seconds until it succeeds. It reads no clock: ``now`` is whatever monotonic seconds the caller says.
"""

import asyncio
import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(slots=True)
class QueueCore(Generic[K]):
    """The queue without waiting."""

    first: float = 0.005
    limit: float = 10.0
    _ready: dict[K, None] = field(default_factory=dict)  # insertion order is the order of service
    _running: set[K] = field(default_factory=set)
    _again: set[K] = field(default_factory=set)
    _due: dict[K, float] = field(default_factory=dict)
    _heap: list[tuple[float, int, K]] = field(default_factory=list)  # entries not in _due are stale
    _failures: dict[K, int] = field(default_factory=dict)
    _sequence: int = 0

    def add(self, key: K) -> None:
        """Have the key looked at as soon as possible."""
        if key in self._running:
            self._again.add(key)
        else:
            self._ready[key] = None

    def add_at(self, key: K, when: float) -> None:
        """Have the key looked at no later than ``when``; the earliest such wish counts."""
        if self._due.get(key, when + 1) <= when:
            return
        self._due[key] = when
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, key))

    def take(self, now: float) -> K | None:
        """The next key, now with the caller until ``done``; None where there is nothing to do yet."""
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)
        if not self._ready:
            return None
        key = next(iter(self._ready))
        del self._ready[key]
        self._running.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker is finished with the key, however it went."""
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._ready[key] = None

    def failed(self, key: K, now: float) -> float:
        """Try the key again later; returns the delay in seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = min(self.first * float(1 << min(count, 40)), self.limit)
        self.add_at(key, now + delay)
        return delay

    def succeeded(self, key: K) -> None:
        """The next failure of the key starts again at the first delay."""
        self._failures.pop(key, None)

    def next_due(self) -> float | None:
        """When the earliest delayed key comes back."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._ready)


class WorkQueue(Generic[K]):
    """The queue with waiting: any number of workers of one event loop."""

    def __init__(self, core: QueueCore[K], clock: Callable[[], float]) -> None:
        self._core = core
        self._clock = clock
        self._changed = asyncio.Event()

    def add(self, key: K) -> None:
        """As soon as possible."""
        self._core.add(key)
        self._changed.set()

    def add_after(self, key: K, seconds: float) -> None:
        """No later than ``seconds`` from now."""
        self._core.add_at(key, self._clock() + seconds)
        self._changed.set()

    async def get(self) -> K:
        """Wait for a key and take it; the caller owes a ``done``."""
        while (key := self._core.take(self._clock())) is None:
            self._changed.clear()
            due = self._core.next_due()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                    await self._changed.wait()
            except TimeoutError:
                continue
        return key

    def failed(self, key: K) -> float:
        """Try the key again after its back-off; returns the delay in seconds."""
        return self._core.failed(key, self._clock())

    def succeeded(self, key: K) -> None:
        """Forget the key's failures."""
        self._core.succeeded(key)

    def done(self, key: K) -> None:
        """Give the key back."""
        self._core.done(key)
        self._changed.set()
