"""Which endpoints of a Service may serve, by kube-proxy's rules.

Why apart: these are the rules people look up when an endpoint is left out, and each is a few lines that
can be held against kube-proxy's ``pkg/proxy/topology.go``. All functions are pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from netplane.kube.objects import Object, name_of
from proxy.model import Endpoint, IPAddress, NodeFacts, Pool, Protocol, WhenEmpty

Order = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint as its slice describes it, before any rule has been applied."""

    address: IPAddress
    port: int
    local: bool
    ready: bool
    serving: bool
    terminating: bool
    zones: frozenset[str] | None  # None: the slice gives no such hint
    nodes: frozenset[str] | None

    @property
    def order(self) -> Order:
        """A sort key over both address families."""
        return (self.address.version, int(self.address), self.port)

    def chosen(self) -> Endpoint:
        """The endpoint as data paths know it."""
        return Endpoint(self.address, self.port, self.local, terminating=self.terminating and not self.ready)


def candidates(
    slices: Iterable[Object], port_name: str, protocol: Protocol, version: int, node: NodeFacts
) -> tuple[list[Candidate], list[str]]:
    """All endpoints of one Service port in one IP version, sorted, and what could not be read, named.

    An address in more than one slice (slices overlap while a controller moves endpoints) counts once, in
    its best condition, so that the order of slices never matters.
    """
    found: dict[Order, Candidate] = {}
    problems: list[str] = []
    for item in slices:
        if item.get("addressType") != f"IPv{version}":
            continue
        port = _port_number(item, port_name, protocol)
        if port is None:
            continue
        for entry in item.get("endpoints") or []:
            try:
                candidate = _candidate(entry, port, node)
            except (ValueError, IndexError) as error:
                problems.append(f"EndpointSlice {name_of(item)}: endpoint left out: {error}")
                continue
            known = found.get(candidate.order)
            if known is None or _rank(candidate) > _rank(known):
                found[candidate.order] = candidate
    return [found[key] for key in sorted(found)], problems


def _port_number(item: Object, port_name: str, protocol: Protocol) -> int | None:
    for port in item.get("ports") or []:
        named = (port.get("name") or "") == port_name
        if named and (port.get("protocol") or "TCP") == protocol and port.get("port") is not None:
            return int(port["port"])
    return None


def _candidate(entry: Mapping[str, Any], port: int, node: NodeFacts) -> Candidate:
    # Only the first address counts: discovery/v1 says that further ones are not to be relied on.
    conditions = entry.get("conditions") or {}
    ready = conditions.get("ready")
    ready = True if ready is None else bool(ready)
    serving = conditions.get("serving")  # like ready: who does not say so does
    hints = entry.get("hints") or {}
    return Candidate(
        address=ip_address(entry["addresses"][0] if entry.get("addresses") else ""),
        port=port,
        local=bool(node.name) and entry.get("nodeName") == node.name,
        ready=ready,
        serving=True if serving is None else bool(serving),
        terminating=bool(conditions.get("terminating")),
        zones=_names(hints.get("forZones")),
        nodes=_names(hints.get("forNodes")),
    )


def _names(entries: Sequence[Mapping[str, Any]] | None) -> frozenset[str] | None:
    return frozenset(str(entry.get("name")) for entry in entries) if entries else None


def _rank(candidate: Candidate) -> tuple[bool, bool, bool, tuple[str, ...], tuple[str, ...]]:
    hints = (tuple(sorted(candidate.zones or ())), tuple(sorted(candidate.nodes or ())))
    return (candidate.ready, candidate.serving, candidate.local, *hints)


def usable(among: Sequence[Candidate]) -> list[Candidate]:
    """The ready ones; where there is none, those that still serve while they terminate."""
    ready = [candidate for candidate in among if candidate.ready]
    return ready or [candidate for candidate in among if candidate.serving and candidate.terminating]


def cluster_pool(among: Sequence[Candidate], node: NodeFacts) -> Pool:
    """Policy Cluster: every usable endpoint, narrowed by topology hints where they all carry them."""
    ready = [candidate for candidate in among if candidate.ready]
    return Pool(tuple(candidate.chosen() for candidate in (_hinted(ready, node) or usable(among))))


def local_pool(among: Sequence[Candidate]) -> Pool:
    """Policy Local: this node's own; none of them is silence, unless no endpoint is usable anywhere."""
    chosen = tuple(c.chosen() for c in usable([candidate for candidate in among if candidate.local]))
    empty = WhenEmpty.DROP if usable(among) else WhenEmpty.REJECT
    return Pool(chosen, WhenEmpty.REJECT if chosen else empty)


def _hinted(ready: Sequence[Candidate], node: NodeFacts) -> list[Candidate]:
    if not ready:
        return []
    if all(candidate.nodes for candidate in ready):
        here = [c for c in ready if c.nodes and node.name in c.nodes]
        if here:
            return here
    if node.zone and all(candidate.zones for candidate in ready):
        return [c for c in ready if c.zones and node.zone in c.zones]
    return []
