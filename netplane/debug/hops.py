"""The steps of a walk as values: where each is, what the kernel says there, and where that was read. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from netplane.debug.intent import Choice


class State(StrEnum):
    """What a hop turned out to be; UNSEEN says nothing about packets."""

    OK = "ok"
    BROKEN = "broken"
    UNSEEN = "not observed"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step: where, what the kernel says, and where that was read."""

    node: str
    state: State
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Branch:
    """The part of the walk that belongs to one endpoint: the way there, and its answer's way back."""

    choice: Choice
    out: tuple[Hop, ...]
    back: tuple[Hop, ...]

    @property
    def hops(self) -> tuple[Hop, ...]:
        """Both ways."""
        return (*self.out, *self.back)


@dataclass(frozen=True, slots=True)
class Walk:
    """The whole connection: up to the balancer (or target), one branch an endpoint, back to the client.

    ``translated``: by the kernel, which tries no other endpoint when one does not answer. ``told``: at the socket.
    """

    out: tuple[Hop, ...]
    branches: tuple[Branch, ...]
    back: tuple[Hop, ...]
    translated: bool = False
    told: bool = False


def judged(node: str, fine: bool, text: str, source: str) -> Hop:
    """A step that was seen."""
    return Hop(node or "-", State.OK if fine else State.BROKEN, text, source)


def unseen(node: str, text: str, source: str, why: str) -> Hop:
    """A step that nobody could look at."""
    return Hop(node or "-", State.UNSEEN, f"{text}: not observed from here ({why})", source)
