"""Which addresses and node ports a Service gets: computed from the Services that exist, never remembered.

There is no allocation table to leak or to repair: what no Service holds is free. So a delete, or a change of
type, releases by itself, and the one rule that remains is the caller's: the Services given here and the write
of the result belong to one transaction.

An unasked-for address comes from the upper part of its range, at a place that depends on the Service's UID:
the lower part is left to people who ask for an address by number (KEP-3070), and an address given up is not
handed to the next Service while clients still remember it.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from controlplane.api.kinds import causes
from controlplane.api.kinds.service_rules import NO_ADDRESS, WITH_NODE_PORTS
from netplane.kube.errors import Cause, invalid
from netplane.kube.objects import Object, key_of, name_of, uid_of
from netplane.kube.resources import SERVICES

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

FULL = "range is full"
TAKEN = "already allocated"


def static_band(size: int) -> int:
    """How many numbers at the low end of a range are given out last: between 16 and 256, a sixteenth."""
    return 0 if size <= 16 else min(max(16, size // 16), 256)


def choose(size: int, taken: Collection[int], seed: str) -> int | None:
    """A free number in range(size): by seed in the upper band, then in the lower one; None if all are taken."""
    band = static_band(size)
    for low, high in ((band, size), (0, band)):
        width = high - low
        if not width:
            continue
        start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]) % width
        for step in range(width):
            number = low + (start + step) % width
            if number not in taken:
                return number
    return None


@dataclass(frozen=True, slots=True)
class AddressPool:
    """The usable addresses of one service network, and those that are taken."""

    network: Network
    taken: frozenset[Address] = frozenset()

    @property
    def family(self) -> str:
        """ "IPv4" or "IPv6"."""
        return f"IPv{self.network.version}"

    @property
    def size(self) -> int:
        """All but the network's own address and, in IPv4, the broadcast address."""
        return max(self.network.num_addresses - (2 if self.network.version == 4 else 1), 0)

    def refusal(self, address: Address) -> str:
        """Why this address cannot be had, or ""."""
        if address not in self.network or not 0 <= self._number(address) < self.size:
            range_text = f"The range of valid IPs is {self.network}"
            return f"the provided IP ({address}) is not in the valid range. {range_text}"
        return f"provided IP is {TAKEN}" if address in self.taken else ""

    def choose(self, seed: str) -> Address | None:
        """A free address, or None."""
        taken = {self._number(address) for address in self.taken if address in self.network}
        number = choose(self.size, taken, seed)
        return None if number is None else self.network.network_address + 1 + number

    def _number(self, address: Address) -> int:
        return int(address) - int(self.network.network_address) - 1


@dataclass(frozen=True, slots=True)
class PortPool:
    """The node ports of the cluster, and those that are taken (by any protocol)."""

    ports: range
    taken: frozenset[int] = frozenset()

    def refusal(self, port: int) -> str:
        """Why this port cannot be had, or ""."""
        if port not in self.ports:
            listed = f"{self.ports.start}-{self.ports.stop - 1}"
            return f"provided port is not in the valid range. The range of valid ports is {listed}"
        return f"provided port is {TAKEN}" if port in self.taken else ""

    def choose(self, seed: str) -> int | None:
        """A free port, or None."""
        first = self.ports.start
        number = choose(len(self.ports), {port - first for port in self.taken}, seed)
        return None if number is None else first + number


@dataclass(frozen=True, slots=True)
class ServiceAllocator:
    """The ranges of a cluster. `networks` has one network a family, the cluster's first family first.

    `reserved` addresses (the API server's, the DNS server's) are given only to who asks for them by number.
    """

    networks: tuple[Network, ...]
    node_ports: range = field(default=range(30000, 32768))
    reserved: frozenset[Address] = frozenset()

    def __call__(self, service: Object, old: Object | None, services: Iterable[Object]) -> None:
        """Fill in, in place, what the Service needs and has not: addresses, families, node ports.

        `services` are all that exist, `old` this one before the write (None: a create). Expects a Service that
        has passed validation. Raises StatusError 422 naming the field, with nothing promised to anyone.
        """
        others = [other for other in services if key_of(other) != key_of(service)]
        found = self._families(service, old) or [
            *self._addresses(service, old, others),
            *self._node_ports(service, old, others),
        ]
        if found:
            raise invalid(SERVICES, name_of(service), found)

    def _families(self, service: Object, old: Object | None) -> list[Cause]:
        """`ipFamilies` and `ipFamilyPolicy`: what is absent is filled in, what cannot be had is a cause."""
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return []
        policy = spec.get("ipFamilyPolicy")
        selectorless = spec.get("clusterIP") == NO_ADDRESS and not spec.get("selector")
        if policy is None:
            policy = "RequireDualStack" if selectorless else "SingleStack"
        addresses = spec.get("clusterIPs") or []
        families = list(spec.get("ipFamilies") or _families_of(addresses))
        if policy == "SingleStack" and old is None and max(len(families), len(addresses)) > 1:
            detail = "must be RequireDualStack or PreferDualStack for more than one family"
            return [causes.invalid("spec.ipFamilyPolicy", policy, detail)]
        configured = [f"IPv{network.version}" for network in self.networks]
        possible = ["IPv4", "IPv6"] if selectorless else configured
        found = [
            causes.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
            for index, family in enumerate(families)
            if family not in possible
        ]
        if policy == "RequireDualStack" and len(possible) < 2:
            detail = "this cluster is not configured for dual-stack services"
            found.append(causes.invalid("spec.ipFamilyPolicy", policy, detail))
        families += [family for family in (*configured, *possible) if family not in families]
        families = list(dict.fromkeys(families))
        spec["ipFamilies"] = families[:1] if policy == "SingleStack" else families[:2]
        spec["ipFamilyPolicy"] = policy
        return found

    def _addresses(self, service: Object, old: Object | None, others: Iterable[Object]) -> list[Cause]:
        spec = service["spec"]
        if spec.get("type") == "ExternalName" or spec.get("clusterIP") == NO_ADDRESS:
            return []
        held = {str(address) for address in cluster_addresses(old or {})}
        taken = frozenset(address for other in others for address in cluster_addresses(other))
        wanted = list(spec.get("clusterIPs") or [])[: len(spec["ipFamilies"])]
        found: list[Cause] = []
        for index, family in enumerate(spec["ipFamilies"]):
            pool = AddressPool(self._network(family), taken)
            if index < len(wanted):
                found += self._claim(pool, wanted, index, held)
                continue
            free = AddressPool(pool.network, taken | self.reserved).choose(_seed(service))
            if free is None:
                detail = f"failed to allocate a serviceIP: {FULL}"
                found.append(causes.invalid("spec.clusterIPs", wanted, detail))
                return found
            wanted.append(str(free))
        spec["clusterIPs"], spec["clusterIP"] = wanted, wanted[0]
        return found

    def _claim(self, pool: AddressPool, wanted: list[str], index: int, held: Collection[str]) -> list[Cause]:
        """An address asked for by number; one that the Service holds already is not looked at again."""
        address = ipaddress.ip_address(wanted[index])
        wanted[index] = str(address)
        if wanted[index] in held:
            return []
        if f"IPv{address.version}" != pool.family:
            detail = f"expected an {pool.family} value as indicated by `ipFamilies[{index}]`"
            return [causes.invalid(f"spec.clusterIPs[{index}]", wanted[index], detail)]
        refusal = pool.refusal(address)
        if not refusal:
            return []
        return [causes.invalid("spec.clusterIPs", wanted, f"failed to allocate IP {address}: {refusal}")]

    def _network(self, family: str) -> Network:
        return next(network for network in self.networks if f"IPv{network.version}" == family)

    def _node_ports(self, service: Object, old: Object | None, others: Iterable[Object]) -> list[Cause]:
        """Ports asked for by number first, so that no port that is chosen here takes one of them."""
        spec = service["spec"]
        if spec.get("type") not in WITH_NODE_PORTS:
            return []
        held = node_ports(old or {})
        taken = frozenset(port for other in others for port in node_ports(other))
        found = self._requested_ports(spec, PortPool(self.node_ports, taken), held)
        mine = set(node_ports(service))
        for index, port in enumerate(spec.get("ports") or []):
            if port.get("nodePort") or not _wants_node_ports(spec):
                continue
            pool = PortPool(self.node_ports, taken | mine)
            same = _same_number(spec["ports"], port)
            chosen = same or pool.choose(f"{_seed(service)}/{port.get('port')}")
            if chosen is None:
                found.append(causes.invalid(f"spec.ports[{index}].nodePort", 0, _no_port()))
                return found
            port["nodePort"] = chosen
            mine.add(chosen)
        if _wants_health_check(spec) and not spec.get("healthCheckNodePort"):
            chosen = PortPool(self.node_ports, taken | mine).choose(f"{_seed(service)}/health")
            if chosen is None:
                found.append(causes.invalid("spec.healthCheckNodePort", 0, _no_port()))
                return found
            spec["healthCheckNodePort"] = chosen
        return found

    def _requested_ports(self, spec: dict[str, Any], pool: PortPool, held: Collection[int]) -> list[Cause]:
        wanted = [
            (f"spec.ports[{index}].nodePort", port.get("nodePort") or 0)
            for index, port in enumerate(spec.get("ports") or [])
        ]
        wanted.append(("spec.healthCheckNodePort", spec.get("healthCheckNodePort") or 0))
        return [
            causes.invalid(path, port, refusal)
            for path, port in wanted
            if port and port not in held and (refusal := pool.refusal(port))
        ]


def cluster_addresses(service: Object) -> frozenset[Address]:
    """The cluster addresses that a Service holds; none for headless Services and ExternalName."""
    spec = service.get("spec") or {}
    listed = spec.get("clusterIPs") or [spec.get("clusterIP") or NO_ADDRESS]
    return frozenset(ipaddress.ip_address(address) for address in listed if address and address != NO_ADDRESS)


def node_ports(service: Object) -> frozenset[int]:
    """The node ports that a Service holds, its health check's included."""
    spec = service.get("spec") or {}
    numbers = [port.get("nodePort") or 0 for port in spec.get("ports") or []]
    return frozenset(number for number in [*numbers, spec.get("healthCheckNodePort") or 0] if number)


def _families_of(addresses: Iterable[str]) -> list[str]:
    parsed = [ipaddress.ip_address(address) for address in addresses if address != NO_ADDRESS]
    return [f"IPv{address.version}" for address in parsed]


def _wants_node_ports(spec: dict[str, Any]) -> bool:
    return spec.get("type") == "NodePort" or spec.get("allocateLoadBalancerNodePorts") is not False


def _wants_health_check(spec: dict[str, Any]) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _same_number(ports: Iterable[dict[str, Any]], port: dict[str, Any]) -> int | None:
    """One port over two protocols (DNS) gets one node port, as kube-apiserver gives it."""
    for other in ports:
        if other.get("nodePort") and other.get("port") == port.get("port") and other is not port:
            return int(other["nodePort"])
    return None


def _seed(service: Object) -> str:
    return uid_of(service) or str(key_of(service))


def _no_port() -> str:
    return f"failed to allocate a nodePort: {FULL}"
