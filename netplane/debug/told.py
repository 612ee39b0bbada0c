"""The walk of a connection whose socket is told an endpoint: no packet ever goes to the Service's address.

Why a walk of its own: nothing on the way knows of the Service, so each branch is the way to a pod, from the source on.
Pure.
"""

from collections.abc import Sequence
from dataclasses import replace

from netplane.debug import ways
from netplane.debug.balancers import differences
from netplane.debug.eyes import Eyes
from netplane.debug.hops import Branch, Hop, Walk, judged
from netplane.debug.intent import Choice, Intent
from netplane.debug.listening import at_endpoint

PLACE = "BPF maps of the node's cgroup"


def told(eyes: Eyes, intent: Intent) -> tuple[str, ...] | None:
    """The endpoints that the source's socket is told; None where it is told nothing."""
    if not intent.balancer or intent.source.node != intent.balancer or not intent.frontend:
        return None
    return eyes.told(intent.source.node, intent.frontend)


def as_told(eyes: Eyes, intent: Intent, has: Sequence[str]) -> Walk:
    """One way to a pod for each endpoint that the socket may be told."""
    node = intent.source.node
    if behind := differences(intent, has, "lack", "still have"):
        first = judged(node, False, f"the maps are behind the API: they {behind}", PLACE)
    else:
        first = judged(node, bool(has), _words(intent, has), PLACE)
    branches = tuple(_branch(eyes, intent, choice) for choice in intent.choices)
    return Walk((first,), branches, (), translated=True, told=True)


def _words(intent: Intent, has: Sequence[str]) -> str:
    where = f"{intent.address}:{intent.port}"
    if not has:
        return f"connect() to {where} is refused: no endpoint"
    one = has[0] if len(has) == 1 else f"in turn one of {', '.join(has)}"
    return f"connect() to {where} is told {one}; no packet goes to {intent.address}"


def _branch(eyes: Eyes, intent: Intent, choice: Choice) -> Branch:
    source, to = intent.source, choice.place.address
    direct, seen = _as_to_a_pod(intent, choice)
    if to == source.address:
        own = judged(source.node, True, "it speaks to itself: no packet leaves the pod", "-")
        return Branch(seen, (own, *at_endpoint(eyes, seen, intent.protocol)), ())
    out: list[Hop] = []
    if source.pod:
        out += ways.leave_pod(eyes, source.node, source.address, to)
        out.append(ways.passes(eyes, intent, choice))
    out += ways.to_endpoint(eyes, direct, seen, source.node, translated=False)
    out += ways.into_endpoint(eyes, seen)
    back = ways.from_endpoint(eyes, direct, seen, source.node, translated=False)
    return Branch(
        seen,
        (*out, *at_endpoint(eyes, seen, intent.protocol)),
        (*back, *ways.arrive(eyes, direct, choice.place)),
    )


def _as_to_a_pod(intent: Intent, choice: Choice) -> tuple[Intent, Choice]:
    """The same connection without a Service: a pod sees the client's own address."""
    direct = replace(intent, balancer="", balancer_address=None, address=choice.place.address)
    return direct, replace(choice, seen_as=intent.source.address, kept=True) if choice.place.pod else choice
