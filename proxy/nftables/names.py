"""The words of the table ``inet netplane_services``: maps, chains and mark bits, and which frontend is found where.

Why so few chains: what differs from Service to Service is an element of a map. A chain is only what a number of
endpoints needs to choose among them, and is shared by all frontends with that number.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from proxy.model import Frontend

FAMILY = "inet"
TABLE = "netplane_services"

# Bits of the packet mark, on the first packet of a connection only: what was translated, and how.
OURS, BY_PORT, KEEPS, STICKY = 0x400, 0x800, 0x1000, 0x2000
VERSIONS = (4, 6)
PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


class Kind(StrEnum):
    """Four places to look a frontend up: by address or (NodePorts) by port, and for whom.

    The outside ones have only what differs for clients from outside the cluster (policy Local): endpoints here, which
    see the client's own address.
    """

    SERVICE = "service"
    OUTSIDE = "outside"
    PORT = "port"
    OUTPORT = "outport"

    @property
    def by_port(self) -> bool:
        """Whether the key has no address."""
        return self in (Kind.PORT, Kind.OUTPORT)

    @property
    def mark(self) -> int:
        """The bits that its chains set."""
        keeps = KEEPS if self in (Kind.OUTSIDE, Kind.OUTPORT) else 0
        return OURS | keeps | (BY_PORT if self.by_port else 0)


def kinds(frontend: Frontend) -> tuple[Kind, Kind]:
    """Where a frontend is looked up, and where first for clients from outside."""
    return (Kind.SERVICE, Kind.OUTSIDE) if int(frontend.address) else (Kind.PORT, Kind.OUTPORT)


@cache
def verdicts(kind: Kind, version: int) -> str:
    """The map frontend → chain (or drop)."""
    return f"{kind}{version}"


@cache
def insiders(kind: Kind, version: int) -> str:
    """The map frontend → chain for the cluster's own clients, of frontends that are not the same for everybody."""
    return f"in{'port' if kind.by_port else 'side'}{version}"


@cache
def particular(kind: Kind, version: int) -> str:
    """The chain where such frontends are looked up again, by whose client it is."""
    return f"particular{'-port' if kind.by_port else ''}{version}"


@cache
def slots(kind: Kind, version: int) -> str:
    """The map (frontend, index) → endpoint."""
    return f"{kind}{version}-slots"


@cache
def identities(kind: Kind, version: int) -> str:
    """The map frontend → number under which its clients are remembered, of frontends with session affinity."""
    return f"{kind}{version}-identity"


@cache
def learners(kind: Kind, version: int) -> str:
    """The map frontend → chain that remembers its clients."""
    return f"{kind}{version}-learn"


def clients(version: int) -> str:
    """The map (number, client) → endpoint, which the kernel fills itself: session affinity."""
    return f"clients{version}"


@dataclass(frozen=True, slots=True)
class Pick:
    """A chain that sends a connection to one of ``count`` endpoints."""

    kind: Kind
    version: int
    count: int
    sticky: bool = False

    @property
    def name(self) -> str:
        """Of the chain."""
        return f"{self.kind}{self.version}-{self.count}{'-sticky' if self.sticky else ''}"


@dataclass(frozen=True, slots=True)
class Learn:
    """A chain that remembers a client's endpoint for so many seconds."""

    kind: Kind
    version: int
    seconds: int

    @property
    def name(self) -> str:
        """Of the chain."""
        return f"{self.kind}{self.version}-learn-{self.seconds}"


Chain = Pick | Learn

# Every set whose elements are made from Services; those of ``clients`` the kernel makes itself.
SETS = tuple(
    name
    for v in VERSIONS
    for name in (
        *(named(kind, v) for kind in Kind for named in (verdicts, slots, identities, learners)),
        *(insiders(kind, v) for kind in (Kind.SERVICE, Kind.PORT)),
        *(f"{plain}{v}" for plain in ("addresses", "local", "hairpin", "ranged", "allowed")),
    )
)
