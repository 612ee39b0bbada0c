"""The loop that makes the data path follow the API: wait, build, sync, report; and try again where it failed.

Why a failed sync is no emergency: what was forwarded before still is. The loop says why once, backs off, and
tries with whatever is wanted by then.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic, time

from netplane.errors import KernelError, NetplaneError, PeerError
from netplane.kube.client import Backoff
from proxy import saved
from proxy.datapath import DataPath, SyncReport
from proxy.health import Health
from proxy.metrics import SyncMetrics
from proxy.model import Snapshot
from proxy.targets import copied
from proxy.wanted import Pending, Wanted

log = logging.getLogger(__name__)

MEND_EVERY = 30.0  # seconds without news after which the kernel is looked at again
GRACE = 1.0  # seconds the API has to answer at start before the last snapshot on disk is used
SAVE_EVERY = 1.0  # at most one write to disk in so many seconds

Asked = asyncio.Future[SyncReport]


class Syncer:
    """Drives one data path. ``wake`` is to be called at every change.

    ``grace``: how long the API may take before what was forwarded last is forwarded again.
    """

    def __init__(
        self,
        wanted: Wanted,
        datapath: DataPath,
        metrics: SyncMetrics,
        health: Health,
        path: Path,
        *,
        grace: float = GRACE,
    ) -> None:
        self._wanted = wanted
        self._datapath = datapath
        self._metrics = metrics
        self._health = health
        self._path = path
        self._grace = grace
        self._changed = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._saving: asyncio.Future[bool] | None = None
        self._asked: list[Asked] = []
        self._said: dict[str, str] = {}
        self.snapshot: Snapshot | None = None
        self.report = SyncReport(0)
        self.synced_once = asyncio.Event()
        self.on_synced: Callable[[Snapshot], None] = lambda _snapshot: None

    def wake(self) -> None:
        """Something has changed: sync soon, together with all else that changes in this turn of the loop."""
        self._changed.set()

    async def sync_now(self) -> SyncReport:
        """Look at the kernel now, whatever is remembered of it; what that sync did. Raises its NetplaneError."""
        asked: Asked = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self.wake()
        return await asked

    async def run(self) -> None:
        """Follow for ever."""
        if not await self._api_answers(self._grace):
            await self._use_saved()
        if self._asked:  # meanwhile
            self._changed.set()
        backoff = Backoff()
        pause = MEND_EVERY
        while True:
            await self._within(pause)
            self._changed.clear()
            asked, self._asked = self._asked, []
            pending = self._wanted.take_pending()
            snapshot = self._wanted.snapshot() or self.snapshot
            if snapshot is None:
                self._wanted.put_back(pending)
                waiting = "waiting for the API server to tell of this node and its Services"
                self._say("waiting", waiting)
                _answer(asked, PeerError(f"cannot sync: {waiting}"))
                continue
            if await self._sync(snapshot, pending, asked) and not self.report.incomplete:
                backoff.reset()
                pause = MEND_EVERY
            else:
                pause = backoff.delay()

    async def save_changes(self) -> None:
        """Keep the newest snapshot on disk, behind the syncs, and once more when this is told to end."""
        backoff = Backoff()
        try:
            while True:
                await self._unsaved.wait()
                if await self._save():
                    backoff.reset()
                    await asyncio.sleep(SAVE_EVERY)
                else:
                    await asyncio.sleep(SAVE_EVERY + backoff.delay())
        finally:
            if self._saving is not None:
                await asyncio.wait([self._saving])
            if self._unsaved.is_set():
                await self._save()

    async def _save(self) -> bool:
        """False where the disk does not take it: it stays unsaved then."""
        snapshot = self.snapshot
        assert snapshot is not None, "there is one before anything is unsaved"
        self._unsaved.clear()
        # A dictionary of its own: the next version of the targets is made while the thread reads.
        still = replace(snapshot, targets=copied(snapshot.targets))
        self._saving = asyncio.get_running_loop().run_in_executor(None, saved.save, self._path, still)
        kept = await asyncio.shield(self._saving)  # who waits here may be told to end, the thread goes on
        if not kept:
            self._unsaved.set()
        return kept

    async def _within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _api_answers(self, seconds: float) -> bool:
        deadline = monotonic() + seconds
        while self._wanted.snapshot() is None:
            if not await self._within(deadline - monotonic()):
                return False
            self._changed.clear()
        self._changed.set()
        return True

    async def _use_saved(self) -> None:
        last = await asyncio.to_thread(saved.load, self._path)
        if last is not None and self._wanted.snapshot() is None:
            log.info("the API server has not answered yet: forwarding as at revision %d", last.revision)
            await self._sync(last, Pending())

    async def _sync(self, snapshot: Snapshot, pending: Pending, asked: Sequence[Asked] = ()) -> bool:
        if pending.since is not None:
            self._health.queue(time())
            for family in _families(snapshot):
                self._metrics.queued.labels(family).set(time())
        first, started = not self.synced_once.is_set(), monotonic()
        try:
            report = await self._datapath.sync(snapshot, look=bool(asked))
        except (NetplaneError, OSError) as failure:  # as where no descriptor is left
            error = failure if isinstance(failure, NetplaneError) else KernelError(str(failure))
            self._wanted.put_back(pending)
            self._metrics.failures.inc()
            self._say("sync", f"cannot sync, forwarding as before: {error}")
            _answer(asked, error)
            return False
        self._say("sync", "")
        now = monotonic()
        moved = snapshot != self.snapshot
        self.snapshot, self.report = snapshot, report
        if moved:
            self._unsaved.set()
        elif report.done:
            log.warning("the kernel was not as it was left; mended: %s", ", ".join(report.done))
        self._health.sync(time())
        self._health.eligible = self._wanted.eligible
        self._count(snapshot, pending, now - started, now, first=first)
        self._name_problems(snapshot, report)
        self.synced_once.set()
        self.on_synced(snapshot)
        _answer(asked, report)
        return True

    def _count(
        self, snapshot: Snapshot, pending: Pending, seconds: float, now: float, *, first: bool
    ) -> None:
        metrics = self._metrics
        families = _families(snapshot)
        metrics.synced(families, seconds, time(), first=first)
        metrics.policies(snapshot, families)
        metrics.unserved.set(len(self.report.unserved))
        for moment in pending.triggers:
            for family in families:
                metrics.programming.labels(family).observe(max(0.0, time() - moment))
        if pending.since is not None:
            metrics.delay.observe(now - pending.since)
        for kind in metrics.pending.values():
            kind.set(0)

    def _name_problems(self, snapshot: Snapshot, report: SyncReport) -> None:
        """Each thing that cannot be served is said once, when it begins, and its end as well."""
        now = {str(entry): f"not served: {entry}" for entry in report.unserved}
        now |= {problem: problem for problem in (*snapshot.problems, *report.warnings)}
        for key in [key for key in self._said if key.startswith("! ") and key[2:] not in now]:
            log.info("no longer so: %s", self._said.pop(key))
        for key, text in now.items():
            self._say(f"! {key}", text)

    def _say(self, topic: str, text: str, level: Callable[..., None] = log.warning) -> None:
        if self._said.get(topic, "") == text:
            return
        self._said[topic] = text
        if text:
            level("%s", text)


def _families(snapshot: Snapshot) -> list[str]:
    return [f"IPv{version}" for version in sorted({a.version for a in snapshot.node.addresses})]


def _answer(asked: Sequence[Asked], outcome: SyncReport | NetplaneError) -> None:
    for one in asked:
        if one.done():  # who asked has gone
            continue
        if isinstance(outcome, SyncReport):
            one.set_result(outcome)
        else:
            one.set_exception(outcome)
