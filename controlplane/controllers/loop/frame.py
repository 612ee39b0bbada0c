"""How every controller runs: caches in, a queue of object keys, one decision at a time, back-off on failure.

Controllers are level-based: a key says *which* object to look at, never what happened to it. So a lost or
repeated event costs nothing, and a restart needs no memory.
"""

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Never

from controlplane.controllers.actions import Action
from controlplane.controllers.facts.names import suffix
from controlplane.controllers.loop.caches import Caches
from controlplane.controllers.loop.doer import Doer
from controlplane.controllers.loop.queue import QueueCore, WorkQueue
from controlplane.controllers.loop.recorder import Recorder
from controlplane.controllers.loop.writes import PendingWrites
from controlplane.controllers.options import Options
from netplane.errors import NetplaneError
from netplane.kube import errors
from netplane.kube.cache import Change
from netplane.kube.client import Client
from netplane.kube.objects import ObjectKey
from netplane.kube.resources import Resource

log = logging.getLogger(__name__)

RECHECK_SECONDS = 1.0  # how soon to look again where our own write has not come back through the watch

Mapper = Callable[[Change], Iterable[ObjectKey]]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and after how many seconds to look again even if nothing happens."""

    actions: Sequence[Action] = ()
    again_after: float | None = None


@dataclass(slots=True)
class Kit:
    """What the frame gives to every controller."""

    client: Client
    caches: Caches
    options: Options
    component: str = "netplane-controllers"
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    chance: random.Random = field(default_factory=random.Random)

    def suffix(self, length: int = 5) -> str:
        """A random end of a name, in Kubernetes' alphabet."""
        return suffix(self.chance, length)


class Controller(ABC):
    """One reconciler. ``resources`` are the caches it reads; ``watches`` says whom a change concerns."""

    name: str
    component: ClassVar[str] = "netplane-controllers"
    resources: ClassVar[tuple[Resource, ...]]
    workers: ClassVar[int] = 1

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.caches = kit.caches
        self.options = kit.options
        self.pending = PendingWrites()
        self._held_back: set[ObjectKey] = set()
        clock = asyncio.get_running_loop().time
        self.queue: WorkQueue[ObjectKey] = WorkQueue(QueueCore(), clock)
        self.recorder = Recorder(kit.client, self.component, kit.now)
        self.doer = Doer(kit.client, self.pending, self.recorder.record)
        for resource, mapper in self.watches().items():
            kit.caches.subscribe(resource, self._enqueuer(mapper))

    @abstractmethod
    def watches(self) -> Mapping[Resource, Mapper]:
        """For each resource, the keys that a change of it concerns."""

    @abstractmethod
    def decide(self, key: ObjectKey) -> Decision:
        """Look at the caches as they are and say what to do about this key. Pure but for the clock."""

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Bring this key's object one step closer; returns the seconds after which to look again."""
        decision = self.decide(key)
        await self.doer.perform(key, decision.actions)
        return decision.again_after

    async def attempt(self, key: ObjectKey, actions: Sequence[Action]) -> errors.StatusError | None:
        """Perform, and hand back what the API refused, to be told of. A conflict is raised: look again first."""
        try:
            await self.doer.perform(key, actions)
        except errors.StatusError as error:
            if errors.is_conflict(error):
                raise
            return error
        return None

    async def look(self, key: ObjectKey) -> float | None:
        """``reconcile``, but only once the caches show all that we have written for this key."""
        await self.doer.ask_about_lost(key)
        if self.pending.unseen(key, self.caches.by_resource):
            self._held_back.add(key)
            return RECHECK_SECONDS
        self._held_back.discard(key)
        return await self.reconcile(key)

    def _enqueuer(self, mapper: Mapper) -> Callable[[Change], None]:
        def enqueue(change: Change) -> None:
            for key in mapper(change):
                self.queue.add(key)
            self._release()

        return enqueue

    def _release(self) -> None:
        """Look again at what waited for its own writes, as soon as the last of them has come back."""
        for key in [k for k in self._held_back if not self.pending.unseen(k, self.caches.by_resource)]:
            self._held_back.discard(key)
            self.queue.add(key)


def itself(change: Change) -> Iterable[ObjectKey]:
    """The mapper of a controller's own resource."""
    return (change.key,)


async def run_controllers(
    client: Client,
    options: Options,
    kinds: Sequence[Callable[[Kit], Controller]],
    resources: Iterable[Resource],
) -> Never:
    """Run controllers on one set of caches until cancelled."""
    kit = Kit(client, Caches(resources), options)
    controllers = [kind(kit) for kind in kinds]
    synced = asyncio.Event()

    def on_synced() -> None:
        if kit.caches.synced:
            synced.set()

    async with asyncio.TaskGroup() as tasks:
        for resource in kit.caches.resources:
            tasks.create_task(
                kit.caches.follow(client, resource, on_synced), name=f"follow {resource.plural}"
            )
        for controller in controllers:
            tasks.create_task(controller.recorder.run(), name=f"{controller.name} events")
            for _ in range(controller.workers):
                tasks.create_task(_work(controller, synced), name=controller.name)
    raise AssertionError("controllers end only by cancellation")


async def _work(controller: Controller, synced: asyncio.Event) -> Never:
    await synced.wait()
    while True:
        key = await controller.queue.get()
        try:
            again = await controller.look(key)
        except NetplaneError as error:
            delay = controller.queue.failed(key)
            level = logging.DEBUG if errors.is_conflict(error) else logging.WARNING
            log.log(level, "%s %s: %s (again in %.3f s)", controller.name, key, error, delay)
        except Exception:  # one object that we cannot read must not stop all the others
            log.exception("%s %s: this is a bug in netplane", controller.name, key)
            controller.queue.failed(key)
        else:
            controller.queue.succeeded(key)
            if again is not None:
                controller.queue.add_after(key, again)
        finally:
            controller.queue.done(key)
