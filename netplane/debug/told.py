"""The walk of a connection whose socket is told an endpoint: no packet ever goes to the Service's address.

Why a walk of its own: nothing on the way knows of the Service, so each branch is the way to a pod, from the source on.
"""

from collections.abc import Sequence
from dataclasses import replace

from netplane.debug.eyes import Eyes
from netplane.debug.intent import Choice, Intent
from proxy.model import joined

PLACE = "BPF maps of the node's cgroup"


def difference(intent: Intent, has: Sequence[str]) -> str:
    """How the maps differ from the API; empty where they do not."""
    wanted = {joined(choice.place.address, choice.port) for choice in intent.choices}
    differences = [f"lack {name}" for name in sorted(wanted - set(has))]
    return ", ".join([*differences, *(f"still have {name}" for name in sorted(set(has) - wanted))])


def words(intent: Intent, has: Sequence[str]) -> str:
    """What the socket is told."""
    where = f"{intent.address}:{intent.port}"
    if not has:
        return f"connect() to {where} is refused: no endpoint"
    one = has[0] if len(has) == 1 else f"in turn one of {', '.join(has)}"
    return f"connect() to {where} is told {one}; no packet goes to {intent.address}"


def as_to_a_pod(intent: Intent, choice: Choice) -> tuple[Intent, Choice]:
    """The same connection without a Service: a pod sees the client's own address."""
    direct = replace(intent, balancer="", balancer_address=None, address=choice.place.address)
    return direct, replace(choice, seen_as=intent.source.address, kept=True) if choice.place.pod else choice


def told(eyes: Eyes, intent: Intent) -> tuple[str, ...] | None:
    """The endpoints that the source's socket is told; None where it is told nothing."""
    if not intent.balancer or intent.source.node != intent.balancer or not intent.frontend:
        return None
    return eyes.told(intent.source.node, intent.frontend)


def within(intent: Intent, choice: Choice) -> bool:
    """Whether the endpoint is the very pod that asks: then no packet leaves it."""
    return choice.place.address == intent.source.address
