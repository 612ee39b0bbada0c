"""The work queue in virtual time: nothing here waits."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.controllers.loop.queue import QueueCore, WorkQueue


def test_adding_twice_is_adding_once() -> None:
    queue: QueueCore[str] = QueueCore()
    queue.add("a")
    queue.add("b")
    queue.add("a")
    assert [queue.take(0), queue.take(0), queue.take(0)] == ["a", "b", None]


def test_a_key_added_while_it_runs_comes_back_once_it_is_done() -> None:
    queue: QueueCore[str] = QueueCore()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take(0) is None
    queue.done("a")
    assert queue.take(0) == "a"
    queue.done("a")
    assert queue.take(0) is None


def test_failures_double_the_delay_until_the_limit_and_success_forgets_them() -> None:
    queue: QueueCore[str] = QueueCore(first=1.0, limit=5.0)
    delays = []
    now = 0.0
    for _ in range(5):
        queue.add("a")
        assert queue.take(now) == "a"
        delays.append(queue.failed("a", now))
        queue.done("a")
        now += 100
        assert queue.take(now) == "a"
        queue.done("a")
    assert delays == [1, 2, 4, 5, 5]
    queue.succeeded("a")
    assert queue.failed("a", now) == 1


def test_the_earliest_wish_counts() -> None:
    queue: QueueCore[str] = QueueCore()
    queue.add_at("a", 10)
    queue.add_at("a", 5)
    queue.add_at("a", 20)
    assert queue.next_due() == 5
    assert queue.take(4.9) is None
    assert queue.take(5) == "a"
    queue.done("a")
    assert queue.next_due() is None


def test_an_event_does_not_wait_for_the_back_off() -> None:
    queue: QueueCore[str] = QueueCore(first=60)
    queue.add("a")
    queue.take(0)
    queue.failed("a", 0)
    queue.done("a")
    queue.add("a")
    assert queue.take(0.001) == "a"


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "at", "take", "done", "fail"]), st.sampled_from("abc"), st.integers(0, 9)
    ),
    max_size=60,
)


@settings(deadline=None)
@given(OPERATIONS)
def test_no_wish_is_lost_and_no_key_runs_twice(operations: list[tuple[str, str, int]]) -> None:
    """Whatever happens: after the last wish for a key, the key is taken once more."""
    queue: QueueCore[str] = QueueCore(first=1.0, limit=4.0)
    now = 0.0
    running: set[str] = set()
    owed: set[str] = set()
    later: dict[str, float] = {}
    for name, key, number in operations:
        now += 0.5
        if name == "add":
            queue.add(key)
            owed.add(key)
        elif name == "at":
            queue.add_at(key, now + number)
            later[key] = min(now + number, later.get(key, now + number))
        elif name == "take":
            taken = queue.take(now)
            owed |= {k for k, due in later.items() if due <= now}
            later = {k: due for k, due in later.items() if due > now}
            assert (taken is None) == (not owed - running)
            if taken is not None:
                assert taken not in running
                running.add(taken)
                owed.discard(taken)
        elif key in running:
            if name == "fail":
                due = now + queue.failed(key, now)
                later[key] = min(due, later.get(key, due))
            queue.done(key)
            running.discard(key)
    for key in running:
        queue.done(key)
    seen = set()
    while (taken := queue.take(now + 100)) is not None:
        seen.add(taken)
        queue.done(taken)
    assert seen == owed | set(later)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    virtual = VirtualLoop()
    yield virtual
    virtual.close()


def test_waiting_ends_with_the_event_or_with_the_delay(loop: VirtualLoop) -> None:
    async def scenario() -> list[tuple[str, float]]:
        queue: WorkQueue[str] = WorkQueue(QueueCore(first=30.0, limit=120.0), loop.time)
        seen: list[tuple[str, float]] = []

        async def worker() -> None:
            while True:
                key = await queue.get()
                seen.append((key, loop.time()))
                if key == "bad" and len(seen) < 4:
                    queue.failed(key)
                queue.done(key)

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(worker())
            queue.add_after("late", 50)
            queue.add("bad")
            loop.call_later(10, queue.add, "event")
            await asyncio.sleep(200)
            task.cancel()
        return seen

    assert loop.run_until_complete(scenario()) == [
        ("bad", 0),
        ("event", 10),
        ("bad", 30),
        ("late", 50),
        ("bad", 90),
    ]
