"""A question in, the records out: Kubernetes' DNS specification 1.1.0 as one pure function.

  SERVICE.NAMESPACE.svc.ZONE                  A, AAAA: the ClusterIPs, or a headless Service's ready endpoints
  LABEL.SERVICE.NAMESPACE.svc.ZONE            A, AAAA: one endpoint, by host name or 10-244-1-7
  _PORT._PROTOCOL.SERVICE.NAMESPACE.svc.ZONE  SRV: named ports
  d.c.b.a.in-addr.arpa, ....ip6.arpa          PTR: ClusterIPs and endpoints
  dns-version.ZONE                            TXT

A name that exists without the type asked for is NODATA, any other name of ours NXDOMAIN; both carry the SOA.
Names compare without case; the answer repeats the question's spelling.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset
from dns.name import Name
from dns.rcode import Rcode
from dns.rdatatype import RdataType
from dns.rrset import RRset

from netplane.config import IPAddress, IPNetwork
from netplane.dns.index import Endpoint, Index, Port, Service
from netplane.kube.objects import ObjectKey

TTL = 5
"""Seconds, as CoreDNS: an endpoint that left is asked for again soon."""
SPEC_VERSION = "1.1.0"
ALIAS_LIMIT = 8
IN = dns.rdataclass.IN


@dataclass(frozen=True, slots=True)
class Question:
    """What one query asks: a name as the client spelled it, and a record type."""

    name: Name
    kind: RdataType


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. ``follow`` is an alias' target outside our zone that still has to be asked elsewhere."""

    rcode: Rcode = Rcode.NOERROR
    records: tuple[RRset, ...] = ()
    authority: tuple[RRset, ...] = ()
    additional: tuple[RRset, ...] = ()
    follow: Name | None = None


@dataclass(frozen=True, slots=True)
class Zone:
    """What is ours to answer: the names under ``origin``, the addresses in ``networks``."""

    origin: Name
    networks: tuple[IPNetwork, ...]
    addresses: tuple[IPAddress, ...]

    @classmethod
    def of(cls, domain: str, networks: Iterable[IPNetwork], addresses: Iterable[IPAddress]) -> "Zone":
        """Raises ValueError for a domain that is no DNS name."""
        try:
            origin = dns.name.from_text(domain).canonicalize()
        except dns.exception.DNSException as error:
            raise ValueError(f"{domain!r} is not a DNS name: {error}") from None
        return cls(origin, tuple(networks), tuple(addresses))

    def name(self, *labels: str) -> Name:
        """``labels`` under the origin."""
        return Name((*(label.encode() for label in labels), *self.origin.labels))


def answer(question: Question, zone: Zone, index: Index) -> Answer | None:
    """The answer to a question of ours; None where the name is not ours to answer."""
    if question.name.is_subdomain(zone.origin):
        if not index.synced:
            return Answer(Rcode.SERVFAIL)
        return _forward_lookup(question, zone, index)
    if (address := _reversed(question.name)) is not None and any(address in net for net in zone.networks):
        if not index.synced:
            return Answer(Rcode.SERVFAIL)
        return _reverse_lookup(question, address, zone, index)
    return None


@dataclass(frozen=True, slots=True)
class _Found:
    """A name that exists: its records by type (perhaps none), or its alias."""

    records: tuple[RRset, ...] = ()
    additional: tuple[RRset, ...] = ()
    alias: Name | None = None


def _forward_lookup(question: Question, zone: Zone, index: Index) -> Answer:
    chain: list[RRset] = []
    name = question.name
    while True:
        found = _at(name, zone, index)
        if found is None:
            return Answer(Rcode.NXDOMAIN, tuple(chain), (_soa(zone.origin, zone),))
        if found.alias is None or question.kind == RdataType.CNAME:
            break
        chain.append(dns.rrset.from_text(name, TTL, IN, RdataType.CNAME, found.alias.to_text()))
        name = found.alias
        if not name.is_subdomain(zone.origin):
            return Answer(records=tuple(chain), follow=name)
        if len(chain) == ALIAS_LIMIT:
            return Answer(Rcode.SERVFAIL)
    if found.alias is not None:
        return Answer(records=(dns.rrset.from_text(name, TTL, IN, RdataType.CNAME, found.alias.to_text()),))
    wanted = tuple(r for r in found.records if question.kind in (r.rdtype, RdataType.ANY))
    if not wanted:
        return Answer(records=tuple(chain), authority=(_soa(zone.origin, zone),))
    return Answer(records=(*chain, *wanted), additional=found.additional)


def _at(name: Name, zone: Zone, index: Index) -> _Found | None:
    """What is at a name below the origin; None where the name does not exist."""
    labels = _labels(name, zone)
    match labels:
        case []:
            nameserver = dns.rrset.from_text(name, TTL, IN, RdataType.NS, zone.name("ns", "dns").to_text())
            return _Found((_soa(name, zone), nameserver))
        case ["dns-version"]:
            return _Found((dns.rrset.from_text(name, TTL, IN, RdataType.TXT, f'"{SPEC_VERSION}"'),))
        case ["ns", "dns"]:
            return _Found(tuple(_addresses(name, zone.addresses)))
        case ["dns"] | ["svc"]:
            return _Found()
        case [*rest, "svc"]:
            return _under_svc(name, rest, zone, index)
    return None


def _labels(name: Name, zone: Zone) -> list[str]:
    """The labels left of the origin in lower case. Bytes that are no text match nothing we have."""
    own = name.labels[: len(name.labels) - len(zone.origin.labels)]
    return [label.decode("ascii", "replace").lower() for label in own]


def _under_svc(name: Name, labels: list[str], zone: Zone, index: Index) -> _Found | None:
    *rest, namespace = labels
    if not rest:
        return _Found() if index.has_namespace(namespace) else None
    *rest, service_name = rest
    service = index.service(namespace, service_name)
    if service is None:
        return None
    if service.external_name:
        return _alias(service) if not rest else None
    endpoints = index.endpoints(service.key)
    if service.headless and not endpoints:
        return None  # the specification's choice: a client fails at once instead of trying no address
    match rest:
        case []:
            addresses = [e.address for e in endpoints] if service.headless else service.addresses
            return _Found(tuple(_addresses(name, addresses)))
        case [protocol] if protocol.startswith("_"):
            return _Found() if any(p.name and f"_{p.protocol}" == protocol for p in service.ports) else None
        case [label]:
            own = [e.address for e in endpoints if e.label == label]
            return _Found(tuple(_addresses(name, own))) if own else None
        case [port, protocol]:
            return _service_records(name, (port, protocol), service, endpoints, zone)
    return None


def _alias(service: Service) -> _Found | None:
    try:
        return _Found(alias=dns.name.from_text(service.external_name))
    except dns.exception.DNSException:
        return None  # the API server refuses such names; a foreign one that does not must not stop us


def _service_records(
    name: Name, wanted: tuple[str, str], service: Service, endpoints: list[Endpoint], zone: Zone
) -> _Found | None:
    targets: list[tuple[Name, Port, tuple[IPAddress, ...]]] = []
    if service.headless:
        for endpoint in endpoints:
            at = _name_of(service.key, endpoint.label, zone)
            targets += [(at, port, (endpoint.address,)) for port in _named(endpoint.ports, wanted)]
    else:
        at = _name_of(service.key, "", zone)
        targets += [(at, port, service.addresses) for port in _named(service.ports, wanted)]
    if not targets:
        return None
    texts = [f"0 {100 // len(targets) or 1} {port.number} {at.to_text()}" for at, port, _ in targets]
    additional = {r.to_text(): r for at, _, addresses in targets for r in _addresses(at, addresses)}
    return _Found(
        (dns.rrset.from_text(name, TTL, IN, RdataType.SRV, *texts),),
        tuple(additional.values()),
    )


def _named(ports: Iterable[Port], wanted: tuple[str, str]) -> Iterator[Port]:
    return (port for port in ports if port.name and (f"_{port.name}", f"_{port.protocol}") == wanted)


def _name_of(service: ObjectKey, label: str, zone: Zone) -> Name:
    own = (label,) if label else ()
    return zone.name(*own, service.name, service.namespace, "svc")


def _addresses(name: Name, addresses: Iterable[IPAddress]) -> Iterator[RRset]:
    by_kind: dict[RdataType, list[str]] = {}
    for address in addresses:
        kind = RdataType.A if address.version == 4 else RdataType.AAAA
        by_kind.setdefault(kind, []).append(str(address))
    for kind, texts in by_kind.items():
        yield dns.rrset.from_text(name, TTL, IN, kind, *texts)


def _soa(owner: Name, zone: Zone) -> RRset:
    """The record that lets a resolver remember, for TTL seconds, that there is nothing (RFC 2308)."""
    server = zone.name("ns", "dns").to_text()
    contact = zone.name("hostmaster").to_text()
    return dns.rrset.from_text(owner, TTL, IN, RdataType.SOA, f"{server} {contact} 1 7200 1800 86400 {TTL}")


def _reversed(name: Name) -> IPAddress | None:
    """The address that a name under in-addr.arpa or ip6.arpa spells out whole."""
    try:
        return ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None


def _reverse_lookup(question: Question, address: IPAddress, zone: Zone, index: Index) -> Answer:
    origin = Name(question.name.labels[-3:])  # in-addr.arpa or ip6.arpa
    owners = index.owners(address)
    if not owners:
        return Answer(Rcode.NXDOMAIN, authority=(_soa(origin, zone),))
    if question.kind not in (RdataType.PTR, RdataType.ANY):
        return Answer(authority=(_soa(origin, zone),))
    names = [_name_of(key, label, zone).to_text() for key, label in owners]
    return Answer(records=(dns.rrset.from_text(question.name, TTL, IN, RdataType.PTR, *names),))
