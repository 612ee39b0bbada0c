"""Services and EndpointSlices, turned into what questions ask for: by name, and by address.

Each object is read once, when it changes; a question costs look-ups only. Nothing here knows of DNS messages,
sockets or clocks. The law: the same objects in any order of changes give the same answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, TypeVar

from netplane.config import IPAddress
from netplane.kube.cache import Change
from netplane.kube.objects import Object, ObjectKey, key_of, labels_of, namespace_of

K = TypeVar("K")
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Port:
    """One port that an SRV question can name: ``name`` and ``protocol`` in lower case."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready address behind a Service, with its own label under the Service's name."""

    label: str
    address: IPAddress
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """What a name under ``svc`` resolves to: addresses, an alias, or (headless) the endpoints."""

    key: ObjectKey
    addresses: tuple[IPAddress, ...]
    ports: tuple[Port, ...]
    headless: bool
    external_name: str


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of one EndpointSlice that matters here."""

    service: ObjectKey
    endpoints: tuple[Endpoint, ...]


def read_service(obj: Object) -> Service:
    """Tolerates what may be absent, and addresses that are none (they get no record)."""
    spec = obj.get("spec") or {}
    texts = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    return Service(
        key=key_of(obj),
        addresses=tuple(address for text in texts if (address := _address(text)) is not None),
        ports=tuple(_ports(spec.get("ports") or [])),
        headless="None" in texts,
        external_name=str(spec.get("externalName") or "") if spec.get("type") == "ExternalName" else "",
    )


def read_slice(obj: Object) -> Slice:
    """Only ready endpoints, as DNS has them: absent readiness is ready (EndpointSlice's API documentation)."""
    ports = tuple(_ports(obj.get("ports") or []))
    endpoints = []
    for entry in obj.get("endpoints") or []:
        if (entry.get("conditions") or {}).get("ready") is False:
            continue
        for text in entry.get("addresses") or []:
            if (address := _address(text)) is not None:
                label = str(entry.get("hostname") or dashed(address))
                endpoints.append(Endpoint(label.lower(), address, ports))
    return Slice(ObjectKey(namespace_of(obj), labels_of(obj).get(SERVICE_NAME_LABEL, "")), tuple(endpoints))


def dashed(address: IPAddress) -> str:
    """The label of an endpoint that has no host name: ``10-244-1-7``, ``fd00--7``."""
    return str(address).replace(".", "-").replace(":", "-")


def _address(text: object) -> IPAddress | None:
    try:
        return ip_address(str(text))
    except ValueError:
        return None


def _ports(entries: list[Mapping[str, Any]]) -> Iterator[Port]:
    for entry in entries:
        number = entry.get("port")
        if isinstance(number, int):
            yield Port(
                str(entry.get("name") or "").lower(), str(entry.get("protocol") or "TCP").lower(), number
            )


@dataclass(slots=True)
class Index:
    """All names and addresses of the cluster. Owned by one event loop."""

    synced: bool = False
    _services: dict[ObjectKey, Service] = field(default_factory=dict)
    _namespaces: dict[str, int] = field(default_factory=dict)
    _slices: dict[ObjectKey, Slice] = field(default_factory=dict)
    _slices_of: dict[ObjectKey, set[ObjectKey]] = field(default_factory=dict)
    _services_at: dict[IPAddress, set[ObjectKey]] = field(default_factory=dict)
    _slices_at: dict[IPAddress, set[ObjectKey]] = field(default_factory=dict)

    def service(self, namespace: str, name: str) -> Service | None:
        """The Service of that name, if it exists."""
        return self._services.get(ObjectKey(namespace, name))

    def has_namespace(self, namespace: str) -> bool:
        """Whether any Service makes this namespace a name that exists."""
        return namespace in self._namespaces

    def endpoints(self, service: ObjectKey) -> list[Endpoint]:
        """The Service's ready endpoints, each address once, in the order of their addresses."""
        keys = self._slices_of.get(service, ())
        found = {(e.label, e.address): e for key in keys for e in self._slices[key].endpoints}
        return sorted(found.values(), key=lambda e: (e.address.version, e.address))

    def owners(self, address: IPAddress) -> list[tuple[ObjectKey, str]]:
        """Who has this address: (Service, "") for a ClusterIP, (Service, endpoint's label) for an endpoint."""
        services = [(key, "") for key in self._services_at.get(address, ())]
        if services:
            return sorted(services)
        slices = [self._slices[key] for key in self._slices_at.get(address, ())]
        return sorted(
            (found.service, endpoint.label)
            for found in slices
            if found.service in self._services
            for endpoint in found.endpoints
            if endpoint.address == address
        )

    def service_changed(self, change: Change) -> None:
        """Takes over one change of a Service."""
        key = change.key
        if (old := self._services.pop(key, None)) is not None:
            self._count(key.namespace, -1)
            for address in old.addresses:
                _discard(self._services_at, address, key)
        if change.new is None:
            return
        new = self._services[key] = read_service(change.new)
        self._count(key.namespace, +1)
        for address in new.addresses:
            self._services_at.setdefault(address, set()).add(key)

    def slice_changed(self, change: Change) -> None:
        """Takes over one change of an EndpointSlice."""
        key = change.key
        if (old := self._slices.pop(key, None)) is not None:
            _discard(self._slices_of, old.service, key)
            for endpoint in old.endpoints:
                _discard(self._slices_at, endpoint.address, key)
        if change.new is None:
            return
        new = self._slices[key] = read_slice(change.new)
        self._slices_of.setdefault(new.service, set()).add(key)
        for endpoint in new.endpoints:
            self._slices_at.setdefault(endpoint.address, set()).add(key)

    def _count(self, namespace: str, step: int) -> None:
        count = self._namespaces.get(namespace, 0) + step
        if count:
            self._namespaces[namespace] = count
        else:
            del self._namespaces[namespace]


def _discard(table: dict[K, set[ObjectKey]], at: K, key: ObjectKey) -> None:
    found = table.get(at)
    if found is not None:
        found.discard(key)
        if not found:
            del table[at]
