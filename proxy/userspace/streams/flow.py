"""A relayed connection as a value of descriptors and flags.

Why so little: no byte stays in user space past a turn of the loop, so this, and what the kernel knows of the
descriptors, is all there is of a flow. ``relaying`` is its life; ``moving`` moves its bytes.
"""

from typing import Final

from proxy.balance import Where
from proxy.model import Endpoint
from proxy.userspace.listeners import Choice, Origin
from proxy.userspace.poller import Watched
from proxy.userspace.sources import Client
from proxy.userspace.streams.pipes import Pipe
from proxy.userspace.streams.relay import ERR, FLOWING, OUT, PRI, Half
from proxy.userspace.traffic import Traffic

RARE: Final = OUT | ERR | PRI


class Owner:
    """Whoever moves the bytes of a side."""

    def ready(self, side: "Side", events: int) -> None:
        """Handle epoll events of this side's socket."""
        raise NotImplementedError

    def read(self, side: "Side", events: int) -> None:
        """Move what there is to read."""
        raise NotImplementedError

    def broken(self, flow: "Flow") -> None:
        """Handling an event of the flow raised: end it."""
        raise NotImplementedError


class Side(Watched):
    """One socket of a flow, and the direction that is read from it. ``pipe`` holds that direction's bytes."""

    __slots__ = ("credit", "flow", "half", "owner", "peer", "pipe")

    def __init__(self, fd: int, flow: "Flow", owner: Owner) -> None:
        self.fd = fd
        self.mask = -1
        self.flow = flow
        self.owner = owner
        self.peer: Side | None = None
        self.half: Half = FLOWING
        self.pipe: Pipe | None = None
        self.credit = 0

    def ready(self, events: int) -> None:
        """Events of this socket; nearly always it is one thing, that there is something to read."""
        if events & RARE:
            self.owner.ready(self, events)
        elif self.half is FLOWING:
            self.owner.read(self, events)

    def broken(self) -> None:
        """A bug of ours met this flow: it ends, the others go on."""
        self.owner.broken(self.flow)


class Flow:
    """A client's connection and the endpoint's. ``started``: when a timed connect began, else 0.

    ``traffic``: where it is counted, which may be by its endpoint.

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

    def __init__(
        self, listener: Origin, traffic: Traffic, client: Client, choice: Choice, first: int, deadline: float
    ) -> None:
        self.listener = listener
        self.traffic = traffic
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

    def sides(self) -> list[Side]:
        """The client's and the endpoint's, as far as they are there."""
        return [side for side in (self.client_side, self.endpoint_side) if side is not None]

    def try_again(self, traffic: Traffic) -> None:
        """The endpoint has failed, which counts there; from now on the flow counts where another one does."""
        self.traffic.retries += 1
        self._count_at(traffic)

    def count_at_endpoint(self) -> None:
        """Another process began the flow: from now on it counts where its listener's clients of that endpoint do."""
        assert self.endpoint is not None
        self._count_at(self.listener.traffic_at(self.endpoint))

    def _count_at(self, traffic: Traffic) -> None:
        self.traffic.active -= 1
        self.traffic = traffic
        traffic.active += 1

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
