"""What is written down about an attachment: the value that plans, checks and listings are made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cni.bandwidth import Bandwidth
from cni.ports import PortMapping
from cni.protocol import Attachment
from netplane.config import IPAddress, IPNetwork


class State(StrEnum):
    """How far an attachment is."""

    RESERVING = "reserving"
    LIVE = "live"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an ADD decided besides the addresses, and a DEL must know whatever the configuration says by then.

    ``link`` is the host's end; ``exclude`` is where traffic is not masqueraded, None for no masquerade at all.
    """

    link: str
    netns: str
    netns_inode: str
    boot_id: str
    mtu: int
    exclude: tuple[IPNetwork, ...] | None
    ports: tuple[PortMapping, ...] = ()
    mac: str | None = None  # of the pod's end; None: made from the attachment's identity
    bandwidth: Bandwidth | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """One row."""

    attachment: Attachment
    addresses: tuple[IPAddress, ...]
    terms: Terms
    state: State = State.RESERVING
    created: str = ""


def describe(lease: Lease) -> Mapping[str, object]:
    """A lease as plain data, for listings."""
    return {
        "network": lease.attachment.network,
        "containerID": lease.attachment.container_id,
        "ifname": lease.attachment.ifname,
        "addresses": [str(address) for address in lease.addresses],
        "link": lease.terms.link,
        "netns": lease.terms.netns,
        "mtu": lease.terms.mtu,
        "ports": [str(mapping) for mapping in lease.terms.ports],
        "state": str(lease.state),
        "created": lease.created,
    }
