"""Whose address an endpoint sees: the client's own wherever the reply is sure to pass this node again.

Why pure: a wrong answer here is a connection that hangs, and each rule was found by one that did.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from proxy.model import Endpoint, IPAddress, IPNetwork, NodeFacts


def within(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    """Whether any of the networks has this address; another IP version never does."""
    return any(address in network for network in networks if network.version == address.version)


@dataclass(frozen=True, slots=True)
class Client:
    """What matters of a client's address. ``inside``: of the cluster, so a pod or this node itself."""

    address: IPAddress
    text: str
    packed: bytes
    inside: bool
    local_pod: bool
    own: bool


def classify(text: str, node: NodeFacts) -> Client:
    """Look at a client's address as accept(2) gives it."""
    text = text.partition("%")[0]
    address = ip_address(text)
    own = address.is_loopback or address in node.addresses
    pod = within(address, node.cluster_cidrs)
    local_pod = within(address, node.pod_cidrs)
    inside = own or pod or local_pod
    return Client(address, text, address.packed, inside, local_pod and not own, own)


def keeps_address(client: Client, endpoint: Endpoint, keep_outside: bool, pods: Iterable[IPNetwork]) -> bool:
    """Whether the endpoint is to see the client's own address; else it sees the node's.

    Replies to a kept address are caught as they arrive on this node, so they must do that: the endpoint is a
    pod (of the networks ``pods``; a machine has no way back to pods, or is this one, where replies never
    arrive), and it is here, or the client is a pod of this node. A pod that reaches itself would answer
    itself without any packet leaving it.
    """
    if client.own or client.address.version != endpoint.address.version or client.address == endpoint.address:
        return False
    if not within(endpoint.address, pods):
        return False
    if client.inside:
        return client.local_pod or endpoint.local
    return keep_outside and endpoint.local
