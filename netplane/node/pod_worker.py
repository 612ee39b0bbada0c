"""One pod from its first sight to its last: what is, what should be, one step closer; again at every change.

Level-based: a step looks at everything anew, so it does not matter how it was woken or what was missed.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from netplane.errors import NetplaneError
from netplane.kube import errors
from netplane.kube.objects import Object, is_deleting, name_of, namespace_of, now_rfc3339, uid_of
from netplane.kube.resources import PODS
from netplane.node import pod_end, status
from netplane.node.background import Background
from netplane.node.backoff import Restarts
from netplane.node.container_slot import ContainerSlot, Step
from netplane.node.container_start import drop_all_logs, start_container
from netplane.node.pod_context import NetworkNotReady, PodContext
from netplane.node.pod_probes import PodProbes
from netplane.node.pod_sandbox import PodSandbox
from netplane.node.pod_volumes import PodVolumes
from netplane.node.prober import Target
from netplane.node.probes import Probe, probes_of
from netplane.node.runtimes import Sandbox
from netplane.node.status_writer import StatusWriter

log = logging.getLogger(__name__)

FINISHED = ("Succeeded", "Failed")


class PodWorker:
    """``from_api`` is False for a pod that is only known from its sandbox: the API has not been heard yet."""

    def __init__(self, context: PodContext, pod: Object, sandbox: Sandbox | None, *, from_api: bool) -> None:
        self._context = context
        self._clock = context.clock
        self.pod = pod
        self._from_api = False
        self._home = PodSandbox(context, sandbox)
        self._slots: list[ContainerSlot] = []
        self._problem = ""  # what of the spec cannot be served, for good
        self._observed = sandbox is None or not sandbox.alive
        self._gone = False
        self._kill_at: float | None = None
        self._announced = False
        self._first_seen = self._clock()
        self._start_time = ""
        self._phase = ""
        self._wake = asyncio.Event()
        self._background = Background()
        self._probes = PodProbes(context, self._background, lambda: self.pod, self._wake.set)
        self._volumes = PodVolumes(context)
        self._writer = StatusWriter(context.client, context.metrics.status_lag.observe)
        self._read_spec()
        if from_api:
            self.update(pod)

    @property
    def sandbox(self) -> Sandbox | None:
        """The pod's sandbox, while it has one."""
        return self._home.sandbox

    @property
    def phase(self) -> str:
        """As last computed."""
        return self._phase

    def attempt_of(self, container: str) -> int | None:
        """The newest attempt of a container; None when there was none, or there is no such container."""
        for slot in self._slots:
            if slot.name == container and slot.current is not None:
                return slot.current.attempt
        return None

    def is_running(self, container: str, attempt: int) -> bool:
        """Whether this very attempt still runs."""
        states = [slot.current for slot in self._slots if slot.name == container]
        return any(s is not None and s.running and s.attempt == attempt for s in states)

    def _read_spec(self) -> None:
        settings = self._context.settings
        refused = self._context.runtime.refusals(self.pod)
        self._problem = "; ".join(refused)
        restarts = Restarts(settings.restart_base, settings.restart_limit)
        for spec in (self.pod.get("spec") or {}).get("containers") or []:
            probes: list[Probe] = []
            try:
                probes = probes_of(spec)
            except ValueError as error:
                self._problem = f"cannot use container {spec.get('name')}: {error}"
            self._slots.append(ContainerSlot(spec, restarts, probes))

    def update(self, pod: Object) -> None:
        """The API shows the pod so."""
        self.pod = pod
        if not self._from_api:
            self._from_api = True
            self._start_time = str((pod.get("status") or {}).get("startTime") or now_rfc3339())
            if self._observed:
                self._recall()
        self._wake.set()

    def removed(self) -> None:
        """The API has the pod no more."""
        self._gone = True
        self._wake.set()

    def anew(self) -> "PodWorker":
        """A fresh worker for the same pod and sandbox, after this one met a bug."""
        worker = PodWorker(self._context, self.pod, self._home.sandbox, from_api=self._from_api)
        worker._gone = self._gone
        return worker

    def _recall(self) -> None:
        for slot in self._slots:
            slot.recall(status.remember(self.pod, slot.name), time.time_ns())

    async def run(self) -> None:
        """Tend the pod until nothing of it is left."""
        async with asyncio.TaskGroup() as tasks:
            self._background.open(tasks)
            self._context.configs.use(self.pod, self._wake.set)
            self._background.start("status", self._writer.run())
            if self._home.sandbox is not None and self._home.sandbox.alive:
                self._background.start("watch", self._watch(self._home.sandbox))
            try:
                await self._loop()
            finally:
                self._background.cancel_all()
                self._context.configs.release(self.pod)

    async def _loop(self) -> None:
        said = ""
        while True:
            self._wake.clear()
            delay: float | None
            try:
                finished, delay = await self._step()
                if finished:
                    return
                said = ""
            except NetplaneError as error:
                delay = self._context.settings.retry
                if str(error) != said:
                    said = str(error)
                    log.warning("pod %s/%s: %s", namespace_of(self.pod), name_of(self.pod), error)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    async def _step(self) -> tuple[bool, float | None]:
        """Whether the pod is finished with, and in how many seconds to look again (None: when woken)."""
        if self._gone or is_deleting(self.pod):
            return await self._end()
        known = (self.pod.get("status") or {}).get("phase") if self._from_api else ""
        if self._phase in FINISHED or known in FINISHED:
            await self._leave_home()
            return False, None
        if self._problem:
            self._refuse()
            return False, None
        if not self._observed:
            return False, None
        if not self._home.usable:
            if not self._from_api:
                return False, None  # how often it was restarted is known to the API only
            await self._move_in()
        else:
            await self._volumes.refresh(self.pod)
        delay = await self._tend()
        self._publish()
        if self._phase in FINISHED:
            await self._leave_home()
        return False, delay

    def _refuse(self) -> None:
        for slot in self._slots:
            slot.waiting, slot.message = "CreateContainerConfigError", self._problem
        if self._writer.written is None:
            self._context.events.warn(self.pod, "Failed", self._problem)
        self._publish()

    async def _move_in(self) -> None:
        """A sandbox where there is none, or none that lives."""
        if self._home.sandbox is not None:
            self._context.events.normal(
                self.pod, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created."
            )
            await self._leave_home()
        self._publish()
        await self._volumes.write(self.pod)
        try:
            sandbox = await self._home.make(self.pod, self._volumes.mounts(self.pod))
        except NetplaneError as error:
            reason = "NetworkNotReady" if isinstance(error, NetworkNotReady) else "FailedCreatePodSandBox"
            self._context.events.warn(self.pod, reason, f"Failed to create pod sandbox: {error}")
            raise
        self._background.start("watch", self._watch(sandbox))

    async def _leave_home(self) -> None:
        self._background.cancel("watch")
        for slot in self._slots:
            self._probes.stop(slot)
            slot.sandbox_lost(self._clock(), time.time_ns())
        await self._home.unmake()

    async def _watch(self, sandbox: Sandbox) -> None:
        """Hear of every change in the sandbox, until it ends."""
        while sandbox.alive:
            async for states in sandbox.watch():
                news = False
                for slot in self._slots:
                    if slot.name in states:
                        news |= slot.observe(states[slot.name], self._clock())
                if not self._observed:
                    self._observed = True
                    if self._from_api:
                        self._recall()
                    news = True
                if news:
                    self._wake.set()
            await asyncio.sleep(0.05)
        self._observed = True
        self._wake.set()

    async def _tend(self) -> float | None:
        """Each container one step on; seconds until the next is due."""
        policy = str((self.pod.get("spec") or {}).get("restartPolicy") or "Always")
        delays: list[float] = []
        for slot in self._slots:
            now = self._clock()
            match slot.next_step(policy, now):
                case Step.START:
                    self._probes.stop(slot)
                    await self._start(slot)
                case Step.WAIT:
                    self._hold(slot)
                    delays.append(slot.due - now)
                case Step.LEAVE:
                    pass
            if slot.current is not None and slot.current.running:
                assert self._home.sandbox is not None
                target = Target(self._home.sandbox, slot.name, self._home.addresses[0])
                if slot.kill_deadline is None:
                    self._probes.start(slot, target)
                delays += await self._probes.kill_condemned(slot, target)
            else:
                self._probes.stop(slot)
        return max(min(delays), 0.01) if delays else None

    async def _start(self, slot: ContainerSlot) -> None:
        sandbox = self._home.sandbox
        assert sandbox is not None
        if missing := self._context.runtime.missing_image(slot.spec):
            if slot.message != missing:
                self._context.events.warn(self.pod, "Failed", f"Error: ErrImagePull: {missing}")
            slot.waiting, slot.message = "ErrImagePull", missing
            return
        if slot.current is not None:
            self._context.metrics.restarts.inc()
        await start_container(self._context, self.pod, sandbox, slot, self._home.addresses)
        if all(s.current is not None and s.current.running for s in self._slots) and slot.attempt == 0:
            self._context.metrics.pod_start.observe(self._clock() - self._first_seen)
        if slot.current is not None and not slot.current.running:
            self._wake.set()  # it has ended already: its restart is another step's

    def _hold(self, slot: ContainerSlot) -> None:
        if slot.waiting == "CrashLoopBackOff":
            return
        where = f"{name_of(self.pod)}_{namespace_of(self.pod)}({uid_of(self.pod)})"
        slot.waiting = "CrashLoopBackOff"
        slot.message = f"back-off {slot.delay:g}s restarting failed container={slot.name} pod={where}"
        self._context.events.warn(
            self.pod, "BackOff", f"Back-off restarting failed container {slot.name} in pod {where}"
        )

    async def _end(self) -> tuple[bool, float | None]:
        """SIGTERM, the grace, SIGKILL; then network, sandbox and at last the API's object."""
        self._publish()
        for slot in self._slots:
            self._probes.stop(slot)
        if self._kill_at is None:
            self._kill_at = self._clock() + pod_end.grace_left(self.pod, datetime.now(UTC))
        elif is_deleting(self.pod):  # a second deletion may shorten the grace
            left = pod_end.grace_left(self.pod, datetime.now(UTC))
            self._kill_at = min(self._kill_at, self._clock() + left)
        sandbox = self._home.sandbox
        running = [slot for slot in self._slots if slot.current is not None and slot.current.running]
        if sandbox is not None and sandbox.alive and self._observed and running:
            left = self._kill_at - self._clock()
            if left > 0:
                await self._ask_to_end(sandbox, running)
                return False, left
            self._announce_end(running)
        elif sandbox is not None and sandbox.alive and not self._observed:
            return False, 1.0
        await self._leave_home()
        await asyncio.to_thread(drop_all_logs, self._context, self.pod)
        await self._volumes.remove(self.pod)
        if not self._gone:
            self._publish()
            await self._forget()
        return True, None

    async def _ask_to_end(self, sandbox: Sandbox, running: list[ContainerSlot]) -> None:
        if self._announce_end(running):
            for slot in running:
                await sandbox.signal(slot.name, signal.SIGTERM)

    def _announce_end(self, running: Sequence[ContainerSlot]) -> bool:
        """Say once that these are ending, also where there is no time left to ask them; whether it is news."""
        if self._announced:
            return False
        self._announced = True
        for slot in running:
            self._context.events.normal(self.pod, "Killing", f"Stopping container {slot.name}")
        return True

    async def _forget(self) -> None:
        """Nothing of the pod is left here: the API may let go of its name."""
        try:
            await self._context.client.delete(
                PODS, name_of(self.pod), namespace_of(self.pod), grace_seconds=0, uid=uid_of(self.pod)
            )
        except errors.StatusError as error:
            if not errors.is_not_found(error) and not errors.is_conflict(error):
                raise

    def _publish(self) -> None:
        if not self._from_api or self._gone:
            return
        view = status.PodView(
            self._pod_as_written(),
            [slot.view() for slot in self._slots],
            self._home.addresses,
            list(self._context.addresses()),
            self._home.sandbox_id,
            self._start_time,
        )
        built = status.build(view, now_rfc3339())
        self._phase = built["phase"]
        self._writer.offer(self.pod, built)

    def _pod_as_written(self) -> Object:
        """The pod with our own newest conditions in it: the watch that repeats them may be behind."""
        written = self._writer.wanted
        if written is None:
            return self.pod
        ours = {c["type"]: c for c in written["conditions"] if c["type"] in status.OURS}
        now = self.pod.get("status") or {}
        others = [c for c in now.get("conditions") or [] if c.get("type") not in status.OURS]
        return {**self.pod, "status": {**now, "conditions": [*others, *ours.values()]}}
