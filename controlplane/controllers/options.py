"""What a person may decide about the controllers; everything else follows from the objects."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times are seconds. ``cluster_cidrs``: one network an address family, pod networks are cut from them.

    ``node_monitor_grace_period``: a Node whose Lease is older is unreachable.
    ``pod_eviction_timeout``: how long a pod without a toleration of its own stays on an unreachable node.
    ``not_ready_eviction_timeout``: the same on a node that answers but says it is not ready: its pods still run.
    """

    cluster_cidrs: tuple[IPNetwork, ...] = (ip_network("10.244.0.0/16"),)
    node_cidr_mask_size_ipv4: int = 24
    node_cidr_mask_size_ipv6: int = 64
    node_monitor_grace_period: float = 40.0
    pod_eviction_timeout: float = 300.0
    not_ready_eviction_timeout: float = 300.0
