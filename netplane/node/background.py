"""Named tasks beside a worker's own: started, replaced and ended by name, all within one task group."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """``open`` it with a task group before anything is started."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def open(self, group: asyncio.TaskGroup) -> None:
        """The group that owns what is started from now on."""
        self._group = group

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start it in the place of any earlier task of that name."""
        assert self._group is not None
        self.cancel(name)
        self._tasks[name] = self._group.create_task(work, name=name)

    def cancel(self, name: str) -> None:
        """End it, if there is one."""
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> None:
        """End them all."""
        for name in list(self._tasks):
            self.cancel(name)
