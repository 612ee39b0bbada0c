"""Pod networks for nodes, cut from the cluster's networks. Once given, a node's network never changes.

Source for the fields: Kubernetes ``pkg/controller/nodeipam`` (``spec.podCIDR`` is the first of ``spec.podCIDRs``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from controlplane.controllers.actions import Action, Record, metadata_patch, status_patch
from controlplane.controllers.facts.pods import spec_of, status_of
from controlplane.controllers.loop.frame import Controller, Decision, Kit, Mapper
from controlplane.controllers.options import IPNetwork, Options
from netplane.errors import ConfigError
from netplane.kube.cache import Change
from netplane.kube.objects import Object, ObjectKey, condition, is_deleting, name_of, rfc3339, set_condition
from netplane.kube.resources import NODES

EVERYTHING = ObjectKey("", "")  # one worker, one key: two nodes are never given a network at the same time


@dataclass(frozen=True, slots=True)
class Range:
    """One cluster network and the prefix length of a node's part of it."""

    network: IPNetwork
    prefix: int

    @property
    def size(self) -> int:
        """How many nodes it is enough for."""
        return 1 << (self.prefix - self.network.prefixlen)

    def block(self, index: int) -> IPNetwork:
        """The node network number ``index``."""
        step = 1 << (self.network.max_prefixlen - self.prefix)
        start = self.network.network_address + index * step
        return ip_network(f"{start}/{self.prefix}")

    def free(self, used: Iterable[IPNetwork]) -> IPNetwork | None:
        """The lowest block that overlaps no network in use; None where there is none."""
        taken: set[int] = set()
        step = 1 << (self.network.max_prefixlen - self.prefix)
        base = int(self.network.network_address)
        for network in used:
            if network.version == self.network.version:
                first = (int(network.network_address) - base) // step
                last = (int(network.broadcast_address) - base) // step
                taken.update(range(max(first, 0), min(last, self.size - 1) + 1))
        index = next((i for i in range(self.size) if i not in taken), None)
        return self.block(index) if index is not None else None


def ranges_of(options: Options) -> tuple[Range, ...]:
    """The cluster's ranges. Raises ConfigError where a node's part would be larger than the whole."""
    ranges = []
    for network in options.cluster_cidrs:
        is_v4 = network.version == 4
        prefix = options.node_cidr_mask_size_ipv4 if is_v4 else options.node_cidr_mask_size_ipv6
        if not network.prefixlen <= prefix <= network.max_prefixlen - 2:
            field = f"nodeCidrMaskSizeIpv{network.version}"
            raise ConfigError(
                f"cannot cut node networks from clusterCidrs {network}: {field} is {prefix}",
                f"Give a prefix length from {network.prefixlen} to {network.max_prefixlen - 2}",
            )
        ranges.append(Range(network, prefix))
    return tuple(ranges)


def networks_of(node: Object) -> list[IPNetwork]:
    """The pod networks a Node has; what cannot be read is left out."""
    listed = spec_of(node).get("podCIDRs") or [spec_of(node).get("podCIDR")]
    found: list[IPNetwork] = []
    for text in listed:
        try:
            found.append(ip_network(str(text)))
        except ValueError:
            continue
    return found


def allocate(nodes: Iterable[Object], ranges: Sequence[Range], now: str) -> list[Action]:
    """Give every node without a network one of each range, or say on the Node why it cannot have one."""
    ordered = sorted(nodes, key=name_of)
    used = [network for node in ordered for network in networks_of(node)]
    actions: list[Action] = []
    for node in ordered:
        if networks_of(node) or is_deleting(node):
            continue
        found = [r.free(used) for r in ranges]
        blocks = [block for block in found if block is not None]
        if len(blocks) < len(ranges):
            actions += _exhausted(node, ranges[found.index(None)], now)
            continue
        used += blocks
        texts = [str(block) for block in blocks]
        actions.append(metadata_patch(NODES, node, {}, spec={"podCIDR": texts[0], "podCIDRs": texts}))
    return [*actions, *_recovered(ordered, now)]


def _exhausted(node: Object, full: Range, now: str) -> list[Action]:
    text = (
        f"cannot allocate a pod CIDR for node {name_of(node)}: all {full.size} /{full.prefix} networks of "
        f"{full.network} are in use. Delete nodes that are gone, or enlarge clusterCidrs"
    )
    current = condition(node, "NetworkUnavailable")
    if current is not None and current.get("message") == text and current.get("status") == "True":
        return []
    conditions = list(status_of(node).get("conditions") or [])
    wanted = set_condition(conditions, "NetworkUnavailable", "True", "NoPodCIDR", text, now)
    return [
        status_patch(NODES, node, {"conditions": wanted}),
        Record(node, "Warning", "CIDRNotAvailable", text),
    ]


def _recovered(nodes: Iterable[Object], now: str) -> list[Action]:
    """Nodes that have a network now and still say that they have none."""
    actions: list[Action] = []
    for node in nodes:
        current = condition(node, "NetworkUnavailable") or {}
        if networks_of(node) and current.get("reason") == "NoPodCIDR" and current.get("status") == "True":
            conditions = list(status_of(node).get("conditions") or [])
            text = "the node has a pod CIDR"
            wanted = set_condition(conditions, "NetworkUnavailable", "False", "PodCIDRAllocated", text, now)
            actions.append(status_patch(NODES, node, {"conditions": wanted}))
    return actions


class PodCIDRController(Controller):
    """Looks at all nodes together, whenever one comes, goes or lacks a network."""

    name = "podcidr"
    component = "cidr-allocator"
    resources = (NODES,)

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self._ranges = ranges_of(kit.options)

    def watches(self) -> Mapping[Any, Mapper]:
        """Nodes; heartbeats of nodes that have their network concern nobody here."""
        return {NODES: self._of_node}

    def decide(self, key: ObjectKey) -> Decision:
        """All nodes in one decision; the frame waits for its writes before the next."""
        return Decision(allocate(self.caches[NODES].values(), self._ranges, rfc3339(self.kit.now())))

    def _of_node(self, change: Change) -> list[ObjectKey]:
        node = change.new
        if change.old is None or node is None or not networks_of(node) or _complains(node):
            return [EVERYTHING]
        return [EVERYTHING] if networks_of(change.old) != networks_of(node) else []


def _complains(node: Object) -> bool:
    return (condition(node, "NetworkUnavailable") or {}).get("reason") == "NoPodCIDR"
