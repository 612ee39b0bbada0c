"""The API's side of the proxy: what it has said so far, and how long ago each change happened.

Why apart from the loop that syncs: noting a change must be cheap and never fail, whatever state the data
path is in; turning all that is known into a snapshot happens later, once for many changes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from netplane.kube.cache import Cache, Change
from netplane.kube.objects import annotations_of, parse_time
from netplane.kube.resources import ENDPOINTSLICES, NODES, SERVICES, Resource
from proxy.health import is_eligible
from proxy.model import IPAddress, IPNetwork, NodeFacts, Snapshot
from proxy.snapshot import Resolution, node_facts

log = logging.getLogger(__name__)

EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


@dataclass(slots=True)
class Pending:
    """Changes noted since the last sync. ``since``: clock seconds of the first; triggers: wall-clock ones."""

    since: float | None = None
    endpoints: int = 0
    services: int = 0
    triggers: list[float] = field(default_factory=list)


def node_port_networks(said: Sequence[str], addresses: Sequence[IPAddress]) -> tuple[IPNetwork, ...]:
    """kube-proxy's nodePortAddresses (CIDRs, or ``primary``, ``localhost``, ``all``) as networks; () is all.

    ``addresses`` are the node's. Where all that is chosen is of one IP version, the other one is served everywhere.
    Raises ValueError naming an entry that is neither a word nor a CIDR. Source: kube-proxy's NewNodePortAddresses.
    """
    found: list[IPNetwork] = []
    for entry in said:
        if entry == "all":
            return ()
        if entry == "primary":
            found += [ip_network(address) for address in addresses]
        elif entry == "localhost":
            found += [ip_network("127.0.0.0/8"), ip_network("::1/128")]
        else:
            found.append(ip_network(entry, strict=False))
    unsaid = {4, 6} - {network.version for network in found} if found else ()
    return (*found, *(ip_network(EVERYWHERE[version]) for version in sorted(unsaid)))


class Wanted:
    """The caches of one node's proxy and what they add up to. ``started``: wall-clock seconds."""

    def __init__(
        self,
        node_name: str,
        cluster_cidrs: Sequence[IPNetwork],
        service_cidrs: Sequence[IPNetwork],
        addresses: Sequence[IPAddress],
        started: float,
        node_port_addresses: Sequence[str] = (),
    ) -> None:
        self.services = Cache(SERVICES)
        self.slices = Cache(ENDPOINTSLICES)
        self.nodes = Cache(NODES)
        self.pending = Pending()
        self._node_name = node_name
        self._cidrs = (tuple(cluster_cidrs), tuple(service_cidrs))
        self._addresses = tuple(addresses)
        self._started = started
        self._node_port_addresses = tuple(node_port_addresses)
        self._facts = NodeFacts(node_name, self._addresses, (), *self._cidrs)
        self._resolution = Resolution(self._facts)

    @property
    def synced(self) -> bool:
        """Whether the API has been heard completely once."""
        return self.services.synced and self.slices.synced and self.nodes.synced

    @property
    def eligible(self) -> bool:
        """Whether this node is to stay in load balancers."""
        return is_eligible(self.nodes.get("", self._node_name))

    def note(self, resource: Resource, change: Change, now: float) -> None:
        """Remember what changed, and since when it has been waiting."""
        pending = self.pending
        if pending.since is None:
            pending.since = now
        resolution = self._resolution
        if resource is ENDPOINTSLICES:
            pending.endpoints += 1
            self._note_trigger(change)
            if change.new is None:
                resolution.drop_slice(change.key)
            else:
                resolution.put_slice(change.new)
        elif resource is SERVICES:
            pending.services += 1
            if change.new is None:
                resolution.drop_service(change.key)
            else:
                resolution.put_service(change.new)

    def take_pending(self) -> Pending:
        """Hand out what waits, and begin anew."""
        taken, self.pending = self.pending, Pending()
        return taken

    def put_back(self, pending: Pending) -> None:
        """A sync failed: what waited waits on."""
        newer = self.pending
        self.pending = Pending(
            pending.since if pending.since is not None else newer.since,
            pending.endpoints + newer.endpoints,
            pending.services + newer.services,
            pending.triggers + newer.triggers,
        )

    def snapshot(self) -> Snapshot | None:
        """All that is known, resolved; None while the API or this node's address is not known."""
        if not self.synced:
            return None
        node = self._facts = self._newest_facts()
        if not node.addresses:
            return None
        self._resolution.set_node(node)
        return replace(self._resolution.snapshot(), revision=self._revision())

    def _newest_facts(self) -> NodeFacts:
        """The Node as it is now; one that is gone or makes no sense stays as it was last known."""
        found = self.nodes.get("", self._node_name)
        if found is None:
            return self._facts
        try:
            facts = node_facts(found, *self._cidrs)
        except (ValueError, KeyError, TypeError) as error:
            log.warning("cannot use Node %s: %s", self._node_name, error)
            return self._facts
        addresses = self._addresses or facts.addresses or self._facts.addresses
        return replace(
            facts,
            addresses=addresses,
            pod_cidrs=facts.pod_cidrs or self._facts.pod_cidrs,
            cluster_cidrs=facts.cluster_cidrs or self._facts.cluster_cidrs,
            node_port_networks=node_port_networks(self._node_port_addresses, addresses),
        )

    def _note_trigger(self, change: Change) -> None:
        """kube-proxy measures from the slice's trigger time; what happened before our start is not ours."""
        text = annotations_of(change.object).get(TRIGGER_TIME)
        if change.new is None or not text:
            return
        if change.old is not None and annotations_of(change.old).get(TRIGGER_TIME) == text:
            return
        try:
            moment = parse_time(text).timestamp()
        except ValueError:
            return
        if moment >= self._started:
            self.pending.triggers.append(moment)

    def _revision(self) -> int:
        """The newest resource version heard; Kubernetes calls it opaque, so what is no number counts as 0."""
        versions = [cache.resource_version for cache in (self.services, self.slices)]
        return max((int(version) for version in versions if version.isdigit()), default=0)
