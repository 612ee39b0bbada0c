"""The garbage collector does not visit what is old, and cycles that were put out of its sight do go."""

import asyncio
import gc
import weakref

import pytest

from controlplane import collector


class Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def everything_visible():
    yield
    gc.unfreeze()


async def test_what_is_old_is_put_out_of_sight_and_looked_at_whole_now_and_then(monkeypatch) -> None:
    monkeypatch.setattr(collector, "AWAY_SECONDS", 0.01)
    monkeypatch.setattr(collector, "WHOLE_SECONDS", 0.03)
    cycle = Cycle()
    gone = weakref.ref(cycle)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(collector.keep_young())
        await asyncio.sleep(0)
        assert gc.get_freeze_count() > 10_000
        del cycle
        gc.collect()
        assert gone() is not None  # it was in use when it was put away
        async with asyncio.timeout(10):
            while gone() is not None:
                await asyncio.sleep(0.01)
        task.cancel()
