"""The objects that the API server itself vouches for: namespaces, priority classes, its own Service, the DNS Service.

Source: kube-apiserver's ``controlplane/controller/{systemnamespaces,kubernetesservice}``.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.api.kinds.priorityclasses import SYSTEM, system_class
from controlplane.api.memory.records import key_for
from controlplane.api.requests.route import Catalog, Route
from controlplane.api.writing.patch import MERGE_PATCH
from controlplane.api.writing.writes import Machinery, Order, apply_patch, create
from controlplane.auth.authn import User
from controlplane.auth.identities import MASTERS
from controlplane.store.contract import StoreError
from netplane.config import IPAddress
from netplane.kube.errors import StatusError
from netplane.kube.objects import Object
from netplane.kube.resources import (
    ENDPOINTS,
    ENDPOINTSLICES,
    NAMESPACES,
    PRIORITYCLASSES,
    SERVICES,
    Resource,
)

log = logging.getLogger(__name__)

ITSELF = User("system:apiserver", (MASTERS,))
SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
RECONCILE_SECONDS = 10.0
DNS_PROXY_NAME = "netplane-dns"  # node proxies leave Services of another proxy name alone


@dataclass(frozen=True, slots=True)
class Published:
    """What is published: where nodes reach this server, and the addresses of the two Services."""

    addresses: Sequence[IPAddress]
    port: int
    service_addresses: Sequence[IPAddress]
    dns_addresses: Sequence[IPAddress]

    def objects(self) -> list[tuple[Resource, Object]]:
        """Everything, in the order in which it can be created."""
        found = [(NAMESPACES, _named(NAMESPACES, name)) for name in SYSTEM_NAMESPACES]
        found += [(PRIORITYCLASSES, system_class(name)) for name in SYSTEM]
        found.append((SERVICES, self._kubernetes()))
        found.append((SERVICES, self._dns()))
        found.append((ENDPOINTS, self._endpoints()))
        found += [(ENDPOINTSLICES, self._slice(version)) for version in self._versions()]
        return found

    def _versions(self) -> list[int]:
        return sorted({address.version for address in self.addresses})

    def _kubernetes(self) -> Object:
        labels = {"component": "apiserver", "provider": "kubernetes"}
        ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": self.port}]
        return _service("default", "kubernetes", labels, self.service_addresses, ports)

    def _dns(self) -> Object:
        labels = {
            "k8s-app": "kube-dns",
            "kubernetes.io/name": "CoreDNS",
            "service.kubernetes.io/service-proxy-name": DNS_PROXY_NAME,
        }
        ports = [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
        ]
        return _service("kube-system", "kube-dns", labels, self.dns_addresses, ports)

    def _endpoints(self) -> Object:
        obj = _named(ENDPOINTS, "kubernetes", "default")
        obj["metadata"]["labels"] = {"endpointslice.kubernetes.io/skip-mirror": "true"}
        addresses = [{"ip": str(address)} for address in self.addresses]
        ports = [{"name": "https", "port": self.port, "protocol": "TCP"}]
        obj["subsets"] = [{"addresses": addresses, "ports": ports}]
        return obj

    def _slice(self, version: int) -> Object:
        name = "kubernetes" if version == self._versions()[0] else f"kubernetes-ipv{version}"
        obj = _named(ENDPOINTSLICES, name, "default")
        obj["metadata"]["labels"] = {"kubernetes.io/service-name": "kubernetes"}
        obj["addressType"] = f"IPv{version}"
        own = [str(address) for address in self.addresses if address.version == version]
        obj["endpoints"] = [{"addresses": [address], "conditions": {"ready": True}} for address in own]
        obj["ports"] = [{"name": "https", "port": self.port, "protocol": "TCP"}]
        return obj


def _named(resource: Resource, name: str, namespace: str = "") -> Object:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def _service(
    namespace: str,
    name: str,
    labels: dict[str, str],
    addresses: Sequence[IPAddress],
    ports: list[dict[str, Any]],
) -> Object:
    obj = _named(SERVICES, name, namespace)
    obj["metadata"]["labels"] = labels
    obj["spec"] = {
        "type": "ClusterIP",
        "clusterIP": str(addresses[0]),
        "clusterIPs": [str(address) for address in addresses],
        "ports": ports,
    }
    return obj


async def publish(machinery: Machinery, kinds: Catalog, published: Published) -> None:
    """Make every object what it should be. Raises StatusError or StoreError for the first that cannot be."""
    for resource, obj in published.objects():
        kind = kinds[resource.group, resource.version, resource.plural]
        metadata = obj["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        if machinery.hub.get(resource, key_for(resource, namespace, name)) is None:
            await create(machinery, Order(Route(kind, "create", namespace), ITSELF), obj)
        else:
            order = Order(Route(kind, "patch", namespace, name), ITSELF)
            await apply_patch(machinery, order, MERGE_PATCH, obj)


async def keep_published(machinery: Machinery, kinds: Catalog, published: Published) -> None:
    """Put back what somebody deleted or changed; for ever."""
    while True:
        await asyncio.sleep(RECONCILE_SECONDS)
        try:
            await publish(machinery, kinds, published)
        except (StatusError, StoreError) as error:
            log.warning("cannot publish the API server's own objects: %s", error)
