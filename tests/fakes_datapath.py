"""A data path without a kernel, and a host for those with one.

Why a fake with the suite of the others: tests of what drives a data path are only worth what the fake is true
to, so ``MemoryDataPath`` takes the contract suite as well.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import uvloop

from netplane.errors import KernelError
from netplane.linux.namespaces import entered_netns
from proxy.datapath import DataPath, SyncReport
from proxy.diff import apply, diff
from proxy.model import Frontend, Snapshot, Target

T = TypeVar("T")


class MemoryDataPath:
    """Forwards nothing, and says so truly.

    ``failures``: errors that the next syncs raise; ``broken``: what the next look mends; ``looks``: how many.
    """

    def __init__(self) -> None:
        self.have: dict[Frontend, Target] = {}
        self.failures: list[Exception] = []
        self.syncs: list[Snapshot] = []
        self.broken: tuple[str, ...] = ()
        self.looks = 0

    @property
    def name(self) -> str:
        return "memory"

    @property
    def targets(self) -> Mapping[Frontend, Target]:
        return self.have

    async def sync(self, want: Snapshot, *, look: bool = False) -> SyncReport:
        self.looks += look
        if self.failures:
            raise self.failures.pop(0)
        if not want.node.addresses:
            raise KernelError(f"cannot forward on node {want.node.name}: it has no address yet")
        self.syncs.append(want)
        changes = diff(self.have, want.targets)
        self.have = apply(self.have, changes)
        counts = (len(changes.added), len(changes.changed), len(changes.removed))
        done, self.broken = (self.broken, ()) if look else ((), self.broken)
        return SyncReport(want.revision, *counts, done=done)

    async def observe(self) -> Mapping[Frontend, Target]:
        return dict(self.have)

    async def count(self) -> int:
        return len(self.have)

    async def close(self, *, keep: bool) -> None:
        if not keep:
            self.have.clear()


class Hosted:
    """A data path in a thread and an event loop of its own, so that all its sockets are in one namespace."""

    def __init__(self, make: Callable[[], DataPath], netns: int | None = None) -> None:
        self._netns = netns
        self._make = make
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        if self._netns is None:
            self._serve()
        else:
            with entered_netns(self._netns):
                self._serve()

    def _serve(self) -> None:
        self._loop = uvloop.new_event_loop()
        self.datapath: Any = self._loop.run_until_complete(self._made())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _made(self) -> DataPath:
        return self._make()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def stop(self, *, keep: bool = False) -> None:
        try:
            self.call(self.datapath.close(keep=keep))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
