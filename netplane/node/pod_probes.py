"""The probes of one pod's containers: which run when, and what their verdicts bring about."""

import signal
from collections.abc import Callable

from netplane.kube.objects import Object
from netplane.node import pod_end
from netplane.node.background import Background
from netplane.node.container_slot import ContainerSlot
from netplane.node.pod_context import PodContext
from netplane.node.prober import Target, probe_for_ever
from netplane.node.probes import Probe, Purpose, Verdict

KILL_AGAIN_SECONDS = 0.5


class PodProbes:
    """``pod()`` is the pod as the API last showed it; ``wake()`` has its worker look again."""

    def __init__(
        self, context: PodContext, background: Background, pod: Callable[[], Object], wake: Callable[[], None]
    ) -> None:
        self._context = context
        self._background = background
        self._pod, self._wake = pod, wake

    def start(self, slot: ContainerSlot, target: Target) -> None:
        """Every probe that is due to run and does not. The others wait for the startup probe, which ends with its
        success.
        """
        for purpose, probe in slot.probes.items():
            name = _task(slot, purpose)
            if purpose is Purpose.STARTUP and slot.started:
                self._background.cancel(name)
            elif (purpose is Purpose.STARTUP or slot.started) and name not in self._background:
                run = probe_for_ever(probe, target, slot.verdicts[purpose], self._reporter(slot, probe))
                self._background.start(name, run)

    def stop(self, slot: ContainerSlot) -> None:
        """None runs any more."""
        for purpose in slot.probes:
            self._background.cancel(_task(slot, purpose))

    def _reporter(self, slot: ContainerSlot, probe: Probe) -> Callable[[Verdict, str], None]:
        def report(verdict: Verdict, problem: str) -> None:
            self._context.metrics.probes.labels(probe.purpose, "failure" if problem else "success").inc()
            old = slot.verdicts[probe.purpose]
            slot.verdicts[probe.purpose] = verdict
            if problem:
                text = f"{probe.purpose} probe failed: {problem}"
                self._context.events.warn(self._pod(), "Unhealthy", text)
            if old.healthy != verdict.healthy or verdict.condemned(probe):
                self._wake()

        return report

    async def kill_condemned(self, slot: ContainerSlot, target: Target) -> list[float]:
        """SIGTERM, then SIGKILL after the grace, to a container that its probes found dead. Seconds until the next
        look, or nothing.
        """
        now = self._context.clock()
        if slot.kill_deadline is None:
            condemned = [p for purpose, p in slot.probes.items() if slot.verdicts[purpose].condemned(p)]
            if not condemned:
                return []
            probe = condemned[0]
            grace = float(probe.grace) if probe.grace is not None else pod_end.grace_of(self._pod())
            slot.kill_deadline = now + grace
            text = f"Container {slot.name} failed {probe.purpose.lower()} probe, will be restarted"
            self._context.events.normal(self._pod(), "Killing", text)
            await target.sandbox.signal(slot.name, signal.SIGTERM)
        self.stop(slot)
        left = slot.kill_deadline - now
        if left > 0:
            return [left]
        await target.sandbox.signal(slot.name, signal.SIGKILL, everything=True)
        return [KILL_AGAIN_SECONDS]


def _task(slot: ContainerSlot, purpose: Purpose) -> str:
    return f"{purpose} of {slot.name}"
