"""A relayed connection as a value of descriptors and flags.

Why so little: no byte stays in user space past a turn of the loop, so this, and what the kernel knows of the
descriptors, is all there is of a flow. ``relaying`` moves its bytes.
"""

from select import EPOLLERR, EPOLLOUT, EPOLLPRI
from typing import Protocol

from proxy.balance import Affinity, Where
from proxy.model import Endpoint, Frontend, Target
from proxy.userspace.listeners import Choice
from proxy.userspace.pipes import Pipe
from proxy.userspace.relay import Half
from proxy.userspace.sources import Client
from proxy.userspace.traffic import Traffic

FLOWING = Half.FLOWING
RARE = EPOLLOUT | EPOLLERR | EPOLLPRI


class Owner(Protocol):
    """Whoever moves the bytes of a side."""

    def ready(self, side: "Side", events: int) -> None:
        """Handle epoll events of this side's socket."""
        ...

    def read(self, side: "Side", events: int) -> None:
        """Move what there is to read."""
        ...

    def reset(self, flow: "Flow") -> None:
        """End a flow by RST in both directions."""
        ...


class Origin(Protocol):
    """The frontend by which a flow came: a ``Listener``, or what is known of another process's."""

    frontend: Frontend
    target: Target
    traffic: Traffic
    affinity: Affinity
    load: dict[Where, int] | None


class Side:
    """One socket of a flow, and the direction that is read from it. ``pipe`` holds that direction's bytes."""

    __slots__ = ("credit", "fd", "flow", "half", "mask", "peer", "pipe", "relay")

    def __init__(self, fd: int, flow: "Flow", relay: Owner) -> None:
        self.fd = fd
        self.flow = flow
        self.relay = relay
        self.peer: Side | None = None
        self.half = FLOWING
        self.pipe: Pipe | None = None
        self.credit = 0
        self.mask = -1

    def ready(self, events: int) -> None:
        """Events of this socket; nearly always it is one thing, that there is something to read."""
        if events & RARE:
            self.relay.ready(self, events)
        elif self.half is FLOWING:
            self.relay.read(self, events)

    def broken(self) -> None:
        """A bug of ours met this flow: it ends, the others go on."""
        self.relay.reset(self.flow)


class Flow:
    """A client's connection and the endpoint's. ``started``: when a timed connect began, else 0.

    ``young``: 2 until the client's first message has gone to the endpoint, 1 until the next, then 0.
    """

    __slots__ = (
        "check_at",
        "choice",
        "client",
        "client_side",
        "connected",
        "deadline",
        "endpoint",
        "endpoint_side",
        "first",
        "listener",
        "load",
        "open",
        "started",
        "traffic",
        "tried",
        "where",
        "young",
    )

    def __init__(self, listener: Origin, client: Client, choice: Choice, first: int, deadline: float) -> None:
        self.listener = listener
        self.traffic = listener.traffic
        self.client = client
        self.choice = choice
        self.first = first
        self.tried = 0
        self.endpoint: Endpoint | None = None
        self.connected = False
        self.open = True
        self.young = 2
        self.where: Where = ("", 0)
        self.load: dict[Where, int] | None = None  # where this flow is counted, by endpoint
        self.started = 0.0
        self.check_at = 0.0
        self.deadline = deadline
        self.client_side: Side | None = None
        self.endpoint_side: Side | None = None

    def count_in(self, load: dict[Where, int]) -> None:
        """Count the flow at its endpoint."""
        self.load = load
        load[self.where] = load.get(self.where, 0) + 1

    def discount(self) -> None:
        """Count the flow at its endpoint no more."""
        if self.load is not None:
            self.load[self.where] -= 1
            if not self.load[self.where]:
                del self.load[self.where]
            self.load = None
