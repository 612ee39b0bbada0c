"""When a container that ended may start again: at once, then after 10 s, 20 s, 40 s ... 5 minutes. Pure.

Source: kubelet's container restart back-off: the first restart is immediate; a run of twice the limit resets it.
"""

from dataclasses import dataclass

BASE_SECONDS = 10.0
LIMIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Restarts:
    """One container's history: the delay that its next restart waits, after ``ended`` (seconds of any one clock)."""

    base: float = BASE_SECONDS
    limit: float = LIMIT_SECONDS
    delay: float = 0.0
    ended: float = 0.0

    def after(self, started: float, ended: float) -> "Restarts":
        """The history with one more run."""
        if ended - started >= 2 * self.limit:
            return Restarts(self.base, self.limit, 0.0, ended)
        return Restarts(self.base, self.limit, self.delay, ended)

    def restarted(self) -> "Restarts":
        """The history once the restart has happened: the next one waits longer."""
        longer = min(max(self.delay * 2, self.base), self.limit)
        return Restarts(self.base, self.limit, longer, self.ended)

    @property
    def due(self) -> float:
        """When the next restart may happen."""
        return self.ended + self.delay
