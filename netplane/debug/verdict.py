"""From hops to one word: WORKS, BROKEN or UNDETERMINED, and the first cause. Pure."""

from dataclasses import dataclass
from enum import Enum

from netplane.debug.hops import Hop, State, Walk
from netplane.debug.intent import Choice, Intent
from proxy.model import Protocol, WhenEmpty, joined


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


def judge(intent: Intent, found: Walk, lab: str = "") -> Verdict:
    """The rule: broken where it must break, undetermined where a hop that matters was not seen, else works.

    A relay tries another endpoint when one fails, so a single broken endpoint is a suspect, not a broken Service. The
    kernel tries no other: one broken endpoint is that share of all connections. ``lab``: the lab that was looked into,
    so that what to run next can be pasted.
    """
    if intent.refusal:
        return Verdict(Outcome.BROKEN, intent.refusal, next=_ask(intent, lab))
    if broken := _first(found.out, State.BROKEN):
        return Verdict(Outcome.BROKEN, _told(broken))
    failing = [(b, hop) for b in found.branches if (hop := _first(b.hops, State.BROKEN)) is not None]
    hint = _try(intent, failing[0][0].choice, lab) if failing else ""
    if failing and (found.translated or len(failing) == len(found.branches)):
        return Verdict(Outcome.BROKEN, _told(failing[0][1]), next=hint)
    if broken := _first(found.back, State.BROKEN):
        return Verdict(Outcome.BROKEN, _told(broken))
    suspects = tuple(f"{b.choice.place.address}: {_told(hop)}" for b, hop in failing)
    healthy = [hop for b in found.branches if not _first(b.hops, State.BROKEN) for hop in b.hops]
    if unseen := _first((*found.out, *healthy, *found.back), State.UNSEEN):
        return Verdict(Outcome.UNDETERMINED, _told(unseen), suspects, hint)
    return Verdict(Outcome.WORKS, "", suspects, hint)


def _first(hops: tuple[Hop, ...] | list[Hop], state: State) -> Hop | None:
    return next((hop for hop in hops if hop.state is state), None)


def _told(hop: Hop) -> str:
    return f"{hop.node}: {hop.text} [{hop.source}]"


def _try(intent: Intent, choice: Choice, lab: str) -> str:
    """The same endpoint, from its own node: what is left out is the way there."""
    place = choice.place
    if not place.node or (intent.source.node == place.node and not intent.balancer):
        return ""  # nothing would be left out
    protocol = "/udp" if choice.port and intent.protocol is Protocol.UDP else ""
    where = joined(place.address, choice.port) if choice.port else place.address
    return f"netplane explain{f' --lab {lab}' if lab else ''} node/{place.node} {where}{protocol}"


def _ask(intent: Intent, lab: str) -> str:
    """Who knows more about a refusal; nobody where the cause is all there is to know."""
    if not intent.balancer or intent.when_empty is WhenEmpty.DROP:
        return ""
    if not intent.frontend:
        return "kubectl get services -A"
    return (
        f"netplane lab exec --name {lab} {intent.balancer} -- netplane doctor" if lab else "netplane doctor"
    )
