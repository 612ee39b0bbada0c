"""The words of the proxy as values: what traffic arrives at, and where it is to go.

Why apart from ``snapshot``: data paths, tools and tests need these words, and none of them needs the rules
by which the API's objects become them. Nothing here reads a clock, a socket or the node.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Protocol(StrEnum):
    """A Service port's transport, as the API spells it."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class WhenEmpty(StrEnum):
    """What a client meets where no endpoint may serve it: an answer at once, or silence."""

    REJECT = "reject"
    DROP = "drop"


class Balance(StrEnum):
    """Which endpoint of a pool is tried first (annotation ``netplane.io/balance`` of a Service)."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST = "least-connections"
    P2C = "p2c"  # the less busy one of two at random


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one Service. ``port`` is the port's name, or its number where it has no name."""

    namespace: str
    name: str
    port: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where traffic arrives. The unspecified address (0.0.0.0 or ::) stands for every address of the node."""

    address: IPAddress
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{joined(self.address, self.port)}/{self.protocol.lower()}"

    @property
    def order(self) -> tuple[int, int, int, str]:
        """A sort key over both address families."""
        return (self.address.version, int(self.address), self.port, self.protocol)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and port that serves. ``local``: on this node. ``terminating``: chosen as a last resort."""

    address: IPAddress
    port: int
    local: bool = False
    terminating: bool = False

    def __str__(self) -> str:
        return joined(self.address, self.port)

    @property
    def order(self) -> tuple[int, int, int]:
        """A sort key over both address families."""
        return (self.address.version, int(self.address), self.port)


@dataclass(frozen=True, slots=True)
class Pool:
    """The endpoints one kind of client may be sent to, sorted, and what it meets where there are none."""

    endpoints: tuple[Endpoint, ...] = ()
    when_empty: WhenEmpty = WhenEmpty.REJECT


@dataclass(frozen=True, slots=True)
class Target:
    """What a frontend resolves to.

    ``inside`` serves clients of the cluster (its pods, and this node itself), ``outside`` everyone else; they
    differ only where externalTrafficPolicy is Local, and then ``keep_outside_address`` says that endpoints
    are to see the outside client's own address. ``affinity``: seconds a client stays with its endpoint, None
    for not at all. ``allowed``: the only client networks let in (loadBalancerSourceRanges); empty for all.
    ``proxy_protocol``: endpoints are told the client's address by the PROXY protocol, version 2 (TCP only).
    ``max_age``: seconds after which a TCP connection is ended; ``drain``: seconds that one may go on when its
    endpoint has left. None: it is left alone. ``apart``: other endpoints may serve here than at the Service's
    other addresses (internalTrafficPolicy Local), so what is remembered of a client there is not meant for here.
    """

    service: ServicePort
    inside: Pool
    outside: Pool
    affinity: int | None = None
    keep_outside_address: bool = False
    allowed: tuple[IPNetwork, ...] = ()
    balance: Balance = Balance.ROUND_ROBIN
    proxy_protocol: bool = False
    max_age: int | None = None
    drain: int | None = None
    apart: bool = False

    @property
    def empty(self) -> bool:
        """Whether no client at all can be served."""
        return not self.inside.endpoints and not self.outside.endpoints


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a data path must know of the node it runs on. ``addresses``: the node's own, preferred first.

    ``node_port_networks``: NodePorts are served on this node's addresses within these only; empty for all.
    """

    name: str
    addresses: tuple[IPAddress, ...] = ()
    pod_cidrs: tuple[IPNetwork, ...] = ()
    cluster_cidrs: tuple[IPNetwork, ...] = ()
    service_cidrs: tuple[IPNetwork, ...] = ()
    zone: str = ""
    node_port_networks: tuple[IPNetwork, ...] = ()

    @property
    def versions(self) -> list[int]:
        """The IP versions that this node has an address in."""
        return sorted({address.version for address in self.addresses})

    def address(self, version: int) -> IPAddress | None:
        """The node's preferred address of an IP version (4 or 6)."""
        return next((address for address in self.addresses if address.version == version), None)


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What a Service's healthCheckNodePort answers from: its name, and its ready endpoints on this node."""

    namespace: str
    name: str
    local_endpoints: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a node is to forward, fully resolved.

    ``revision`` is the newest resource version it was built from (0: unknown) and takes no part in equality.
    ``problems`` names what the API's objects said that could not be honoured, and why. ``checks``: by port.
    ``remembered``: from the disk, the API has not been heard since; what is not in it may be wanted all the same.
    """

    node: NodeFacts
    targets: Mapping[Frontend, Target] = field(default_factory=dict)
    revision: int = field(default=0, compare=False)
    problems: tuple[str, ...] = ()
    checks: Mapping[int, HealthCheck] = field(default_factory=dict)
    remembered: bool = field(default=False, compare=False)


def collapsed(networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    """Sorted and without overlaps, which nft's sets do not take."""
    among = list(networks)
    four = [network for network in among if isinstance(network, IPv4Network)]
    six = [network for network in among if isinstance(network, IPv6Network)]
    return [*collapse_addresses(four), *collapse_addresses(six)]


def joined(address: IPAddress, port: int) -> str:
    """``10.0.0.1:80`` or ``[::1]:80``."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
