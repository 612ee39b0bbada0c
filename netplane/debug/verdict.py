"""From hops to one word: WORKS, BROKEN or UNDETERMINED, and the first cause. Pure."""

from dataclasses import dataclass
from enum import Enum

from netplane.debug.hops import Hop, State, Walk
from netplane.debug.intent import Intent


class Outcome(Enum):
    """The verdict; the value is the exit code."""

    WORKS = 0
    BROKEN = 1
    UNDETERMINED = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """``cause`` names the first hop that decides it; ``suspects`` what a retry hides; ``next`` what to run."""

    outcome: Outcome
    cause: str = ""
    suspects: tuple[str, ...] = ()
    next: str = ""


def judge(intent: Intent, found: Walk) -> Verdict:
    """The rule: broken where it must break, undetermined where a hop that matters was not seen, else works.

    A relay tries another endpoint when one fails, so a single broken endpoint is a suspect, not a broken Service. The
    kernel tries no other: one broken endpoint is that share of all connections.
    """
    if intent.refusal:
        return Verdict(Outcome.BROKEN, intent.refusal, next=_next(intent))
    if broken := _first(found.out, State.BROKEN):
        return Verdict(Outcome.BROKEN, _told(broken))
    failing = [(b, hop) for b in found.branches if (hop := _first(b.hops, State.BROKEN)) is not None]
    if failing and (found.translated or len(failing) == len(found.branches)):
        return Verdict(Outcome.BROKEN, _told(failing[0][1]), next=_try(failing[0][0].choice.place.address))
    if broken := _first(found.back, State.BROKEN):
        return Verdict(Outcome.BROKEN, _told(broken))
    suspects = tuple(f"{b.choice.place.address}: {_told(hop)}" for b, hop in failing)
    hint = _try(failing[0][0].choice.place.address) if failing else ""
    healthy = [hop for b in found.branches if not _first(b.hops, State.BROKEN) for hop in b.hops]
    if unseen := _first((*found.out, *healthy, *found.back), State.UNSEEN):
        return Verdict(Outcome.UNDETERMINED, _told(unseen), suspects, hint)
    return Verdict(Outcome.WORKS, "", suspects, hint)


def _first(hops: tuple[Hop, ...] | list[Hop], state: State) -> Hop | None:
    return next((hop for hop in hops if hop.state is state), None)


def _told(hop: Hop) -> str:
    return f"{hop.node}: {hop.text} [{hop.source}]"


def _try(address: object) -> str:
    return f"netplane explain node/NODE {address}:PORT"


def _next(intent: Intent) -> str:
    return "kubectl get endpointslices,pods -o wide" if intent.balancer else ""
