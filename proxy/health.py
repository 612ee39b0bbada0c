"""What /healthz and /livez answer, word for word as kube-proxy does, because load balancers read it.

Why pure: whether a proxy is healthy is a rule about times, tested without waiting for them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from netplane.kube.objects import Object, is_deleting

TIMEOUT = 60.0  # kube-proxy: twice its sync period; a change that waits longer makes it unhealthy
LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"


@dataclass(slots=True)
class Health:
    """The times that matter (seconds of the wall clock; None: never), and whether the node stays."""

    updated: float | None = None
    queued: float | None = None
    eligible: bool = True

    def queue(self, now: float) -> None:
        """A change waits to be synced; the oldest one counts."""
        if self.queued is None:
            self.queued = now

    def sync(self, now: float) -> None:
        """Everything that waited is done."""
        self.updated, self.queued = now, None

    def alive(self, now: float) -> bool:
        """Whether nothing waits for too long; a proxy that starts is healthy until its first sync."""
        return self.updated is None or self.queued is None or now - self.queued < TIMEOUT

    def page(self, now: float, *, with_node: bool) -> tuple[int, str]:
        """Status and body: /healthz looks ``with_node``, /livez without. What is healthy counts as updated now."""
        good = self.alive(now) and (self.eligible or not with_node)
        updated = now if good else self.updated
        body = f'{{"lastUpdated": "{_text(updated)}","currentTime": "{_text(now)}"'
        if with_node:
            body += f', "nodeEligible": {"true" if self.eligible else "false"}'
        return (200 if good else 503), body + "}"


def is_eligible(node: Object | None) -> bool:
    """Whether load balancers should still send to this node. One that is not known yet is."""
    if node is None:
        return True
    taints = (node.get("spec") or {}).get("taints") or []
    return not is_deleting(node) and all(taint.get("key") != LEAVING_TAINT for taint in taints)


def _text(moment: float | None) -> str:
    """As Go prints a time; None is its zero."""
    if moment is None:
        return "0001-01-01 00:00:00 +0000 UTC"
    found = datetime.fromtimestamp(moment, UTC)
    fraction = f".{found.microsecond:06}".rstrip("0") if found.microsecond else ""
    return f"{found:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC"
