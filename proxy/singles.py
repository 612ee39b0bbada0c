"""Service addresses outside the Service networks (externalIPs, load balancers'): which of them a node may take.

Why not all: such an address may be another machine's, another link's of this machine, or a load balancer's that sends
from it. A node that takes it hears nothing from there any more, and reaches nothing else there. kube-proxy takes
none (but in its mode ipvs). All functions are pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from proxy.model import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Around:
    """What the kernel's routes say, without ours. ``here``: this machine's own; ``beyond``: what lies elsewhere;
    ``gateways``: machines that packets go through. ``relayed``: whether the relay's plumbing is there.
    """

    here: tuple[IPNetwork, ...] = ()
    beyond: tuple[IPNetwork, ...] = ()
    gateways: frozenset[IPAddress] = frozenset()
    relayed: bool = False


@dataclass(frozen=True, slots=True)
class Singles:
    """``own``: those to be led to this node by routes; ``others``: those that it must not serve, with the reason."""

    own: frozenset[IPAddress] = frozenset()
    others: dict[IPAddress, str] = field(default_factory=dict)


def decide(
    addresses: Iterable[IPAddress], around: Around, held: Iterable[IPAddress], *, sockets: bool
) -> Singles:
    """Whose these are. ``sockets``: they are served by sockets, which get only what is this node's own; else by
    translation, which needs a route of the node's own clients and no more. ``held``: those that are led here now.

    An address that this machine has by itself needs nothing, and is neither.
    """
    elsewhere = [address for address in addresses if not _in(address, around.here)]
    if sockets:
        others = {
            address: f"{address} is another machine's: routes of this node go through it"
            for address in elsewhere
            if address in around.gateways
        }
        return Singles(frozenset(elsewhere) - others.keys(), others)
    # While connections of the relay go on, what they come by stays as it is.
    stay = frozenset(held) if around.relayed else frozenset()
    defaults = {network.version for network in around.beyond if not network.prefixlen}
    led = (a for a in elsewhere if a in stay or not (a.version in defaults or _in(a, around.beyond)))
    return Singles(frozenset(led))


def _in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks if network.version == address.version)
