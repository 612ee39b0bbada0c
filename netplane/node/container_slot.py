"""One container of a pod over its attempts: what is known of it and what is to be done next. Pure but for its clock.

The law: an attempt number is started at most once, and never before the one before it has ended.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto

from netplane.kube.objects import Object
from netplane.node.backoff import Restarts
from netplane.node.probes import Probe, Purpose, Verdict
from netplane.node.runtimes import ContainerState
from netplane.node.status import ContainerView, Memory, lost


class Step(Enum):
    """What the pod's worker does with a container now."""

    START = auto()
    WAIT = auto()  # until ``due``
    LEAVE = auto()  # it runs, or it has ended for good


class ContainerSlot:
    """``spec`` is the container as the pod's spec has it; ``attempt`` is the number of the newest or next start."""

    def __init__(self, spec: Object, restarts: Restarts, probes: Sequence[Probe] = ()) -> None:
        self.spec = spec
        self.name = str(spec["name"])
        self.current: ContainerState | None = None
        self.last: ContainerState | None = None
        self.attempt = 0
        self.waiting = ""
        self.message = ""
        self.verdicts: dict[Purpose, Verdict] = {}
        self.kill_deadline: float | None = None
        self._restarts = restarts
        self.probes: Mapping[Purpose, Probe] = {probe.purpose: probe for probe in probes}
        self._reset_verdicts()

    def _reset_verdicts(self) -> None:
        self.verdicts = {purpose: Verdict.initial(purpose) for purpose in self.probes}

    def recall(self, memory: Memory, now_ns: int) -> None:
        """What the API's status remembers, for an agent that has just started and has asked the sandbox before."""
        self.last = self.last or memory.last
        if self.current is None:
            if memory.current is not None:  # it ran, and no sandbox knows of it
                self.current = lost(memory.current, now_ns)
            self.attempt = max(self.attempt, memory.restarts)
        elif memory.current is not None and memory.current.attempt == self.current.attempt:
            # The agent restarted, the container did not: what its probes found still holds.
            known = {Purpose.STARTUP: memory.started, Purpose.READINESS: memory.ready}
            for purpose, healthy in known.items():
                if purpose in self.verdicts and self.verdicts[purpose].streak == 0:
                    self.verdicts[purpose] = Verdict(healthy=healthy)

    def observe(self, state: ContainerState, now: float) -> bool:
        """Take what the sandbox says; whether that was news."""
        old = self.current
        if old is not None and (state.attempt < old.attempt or state == old):
            return False
        if old is not None and state.attempt == old.attempt and not old.running:
            return False
        if old is not None and state.attempt > old.attempt:
            self.last = old
            self._restarts = self._restarts.restarted()
            self._reset_verdicts()
        self.current, self.attempt = state, state.attempt
        self.waiting = self.message = ""
        if not state.running:
            run = (state.finished - state.started) / 1e9
            self._restarts = self._restarts.after(now - run, now)
            self.kill_deadline = None
            self._reset_verdicts()
        return True

    def sandbox_lost(self, now: float, now_ns: int) -> None:
        """All that ran has ended with the sandbox."""
        if self.current is not None and self.current.running:
            self.observe(lost(self.current, now_ns), now)

    @property
    def next_attempt(self) -> int:
        """The number of the next start."""
        return self.attempt if self.current is None else self.current.attempt + 1

    def next_step(self, policy: str, now: float) -> Step:
        """By the pod's restart policy and the back-off."""
        state = self.current
        if state is None:
            return Step.START
        if state.running or policy == "Never" or (policy == "OnFailure" and state.exit_code == 0):
            return Step.LEAVE
        return Step.START if now >= self.due else Step.WAIT

    @property
    def due(self) -> float:
        """When the next attempt may start."""
        return self._restarts.due

    @property
    def delay(self) -> float:
        """The back-off's present length in seconds."""
        return self._restarts.delay

    @property
    def started(self) -> bool:
        """Running, and past its startup probe."""
        running = self.current is not None and self.current.running
        return running and self.verdicts.get(Purpose.STARTUP, _HEALTHY).healthy

    @property
    def ready(self) -> bool:
        """May get traffic."""
        return self.started and self.verdicts.get(Purpose.READINESS, _HEALTHY).healthy

    def view(self) -> ContainerView:
        """For the pod's status."""
        restarts = self.current.attempt if self.current is not None else self.attempt
        return ContainerView(
            self.spec, self.current, self.last, restarts, self.ready, self.started, self.waiting, self.message
        )


_HEALTHY = Verdict(healthy=True)
