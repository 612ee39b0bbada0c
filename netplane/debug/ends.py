"""The two ends of a connection by the names that people have for them: SOURCE and TARGET against the API's objects.

Pure. What names nothing is refused with the names that there are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from netplane.config import IPAddress, IPNetwork
from netplane.errors import ConfigError
from netplane.kube.objects import Object, ObjectKey, key_of, name_of, namespace_of
from proxy.model import NodeFacts, Protocol
from proxy.snapshot import node_facts
from proxy.userspace.sources import within

FORMS = (
    "TARGET is svc/name:port, ns/pod:port, node/name:port, address:port, a Service's DNS name or an http URL"
)
SCHEMES = {"http": "80", "https": "443"}
DNS_NAME = re.compile(r"(?P<name>[a-z][a-z0-9-]*)(\.(?P<namespace>[a-z0-9-]+)(\.svc(\.[a-z0-9.-]+)?)?)?")


@dataclass(frozen=True, slots=True)
class World:
    """The API's objects that matter, and the cluster's networks."""

    services: Sequence[Object]
    slices: Sequence[Object]
    pods: Sequence[Object]
    nodes: Sequence[Object]
    cluster_cidrs: tuple[IPNetwork, ...]
    service_cidrs: tuple[IPNetwork, ...]

    def node(self, name: str) -> NodeFacts | None:
        """One node as the proxy sees it."""
        found = next((node for node in self.nodes if name_of(node) == name), None)
        return node_facts(found, self.cluster_cidrs, self.service_cidrs) if found is not None else None

    def pod(self, namespace: str, name: str) -> Object | None:
        """One pod by its name."""
        return next((pod for pod in self.pods if key_of(pod) == ObjectKey(namespace, name)), None)

    def pod_at(self, address: IPAddress) -> Object | None:
        """The pod that has an address of its own (pods on the host's network do not)."""
        running = (pod for pod in self.pods if not (pod.get("spec") or {}).get("hostNetwork"))
        return next((pod for pod in running if address in pod_addresses(pod)), None)

    def node_at(self, address: IPAddress) -> NodeFacts | None:
        """The node that has an address."""
        known = (self.node(name_of(node)) for node in self.nodes)
        return next((node for node in known if node is not None and address in node.addresses), None)

    def network_of(self, address: IPAddress) -> str:
        """The node whose pod network an address is in, "" for none."""
        known = (self.node(name_of(node)) for node in self.nodes)
        return next((node.name for node in known if node is not None and within(address, node.pod_cidrs)), "")


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a connection. ``pod`` is "ns/name" or "", ``node`` is "" for an address outside the cluster."""

    address: IPAddress
    node: str = ""
    pod: str = ""

    def __str__(self) -> str:
        if self.pod:
            return f"pod {self.pod} ({self.address} on {self.node})"
        return f"node {self.node} ({self.address})" if self.node else f"{self.address} (outside the cluster)"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What TARGET names. ``port``: 0 where none is given and none is needed. ``protocol``: None where none is said."""

    address: IPAddress
    port: int
    protocol: Protocol | None = None


def pod_addresses(pod: Object) -> list[IPAddress]:
    """All addresses in the pod's status."""
    status = pod.get("status") or {}
    texts = [entry.get("ip") for entry in status.get("podIPs") or []] or [status.get("podIP")]
    return [ip_address(text) for text in texts if text]


def source_of(text: str, world: World) -> Place:
    """Where SOURCE is. Raises ConfigError where it names nothing."""
    kind, slash, name = text.partition("/")
    if slash and kind == "node":
        return _node_place(name, text, world)
    if slash:
        pod = world.pod(kind, name)
        if pod is None:
            raise ConfigError(f"cannot explain from {text}: there is no pod {name} in namespace {kind}")
        if not pod_addresses(pod):
            raise ConfigError(f"cannot explain from {text}: the pod has no address yet")
        return place_of(pod, pod_addresses(pod)[0])
    address = _address(text, "SOURCE is ns/pod, node/name, an address or, with --lab, outside")
    if (found := world.pod_at(address)) is not None:
        return place_of(found, address)
    node = world.node_at(address)
    if node is None and (network := world.network_of(address)):
        raise ConfigError(f"cannot explain from {text}: no pod has this address ({network}'s network)")
    return Place(address, node.name if node is not None else "")


def _node_place(name: str, text: str, world: World) -> Place:
    node = world.node(name)
    if node is None or not node.addresses:
        raise ConfigError(f"cannot explain {text}: there is no node {name} with an address")
    return Place(node.addresses[0], name)


def place_of(pod: Object, address: IPAddress) -> Place:
    """A pod's place; one on its host's network is the node."""
    spec = pod.get("spec") or {}
    node = str(spec.get("nodeName") or "")
    return Place(address, node, "" if spec.get("hostNetwork") else str(key_of(pod)))


def target_of(text: str, start: Place, world: World) -> Wanted:
    """Where TARGET is. Raises ConfigError where it names nothing, or no transport that is explained."""
    said = _of_url(text)
    match = re.fullmatch(r"(.+:[^/:]+)/(\w+)", said)
    named, protocol = (match[1], _protocol(text, match[2])) if match else (said, None)
    kind, slash, rest = named.partition("/")
    if not slash:
        host, port = _split(named)
        if service := _by_dns(host, start, world):
            return _service(text, service, port, protocol, start, world)
        return Wanted(_address(host, FORMS), _number(port), protocol)
    name, _, port = rest.partition(":")
    if kind == "svc":
        name, _, given = name.partition(".")
        key = ObjectKey(given.partition(".")[0] or _namespace(start), name)
        return _service(text, key, port, protocol, start, world)
    if kind == "node":
        return Wanted(_node_place(name, text, world).address, _number(port), protocol)
    pod = world.pod(kind, name)
    if pod is None or not pod_addresses(pod):
        raise ConfigError(
            f"cannot explain {text}: there is no pod {name} with an address in namespace {kind}"
        )
    return Wanted(pod_addresses(pod)[0], _number(port), protocol)


def _protocol(text: str, word: str) -> Protocol:
    if word.upper() in (Protocol.TCP, Protocol.UDP):
        return Protocol(word.upper())
    raise ConfigError(f"cannot explain {text}: {word} is not a transport that can be explained: tcp or udp")


def _of_url(text: str) -> str:
    """``host:port`` of an http URL; anything else as it is."""
    scheme, found, rest = text.partition("://")
    if not found:
        return text
    if scheme not in SCHEMES:
        raise ConfigError(
            f"cannot explain {text}: {scheme} is not a URL's scheme that is known here: http or https"
        )
    host, port = _split(rest.partition("/")[0])
    return f"{f'[{host}]' if ':' in host else host}:{port or SCHEMES[scheme]}"


def _by_dns(host: str, start: Place, world: World) -> ObjectKey | None:
    """The Service that a name stands for in a pod; a name of one word only where there is such a Service."""
    match = DNS_NAME.fullmatch(host.removesuffix("."))
    if match is None:
        return None
    key = ObjectKey(match["namespace"] or _namespace(start), match["name"])
    return key if match["namespace"] or any(key_of(obj) == key for obj in world.services) else None


def _namespace(start: Place) -> str:
    return start.pod.partition("/")[0] or "default"


def _service(
    text: str, key: ObjectKey, port: str, protocol: Protocol | None, start: Place, world: World
) -> Wanted:
    service = next((obj for obj in world.services if key_of(obj) == key), None)
    if service is None:
        others = [namespace_of(obj) for obj in world.services if name_of(obj) == key.name]
        there = f"; there is one in {', '.join(sorted(others))}" if others else ""
        raise ConfigError(
            f"cannot explain {text}: there is no Service {key.name} in namespace {key.namespace}{there}"
        )
    spec = service.get("spec") or {}
    texts = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    addresses = [address for address in map(ip_address, texts) if address.version == start.address.version]
    if not addresses:
        raise ConfigError(
            f"cannot explain {text}: the Service has no ClusterIP of the source's IP version",
            "A headless Service is reached through its pods: explain one of those",
        )
    found = _port(text, port, protocol, spec.get("ports") or [])
    return Wanted(addresses[0], int(found["port"]), _protocol(text, found.get("protocol") or "TCP"))


def _port(
    text: str, port: str, protocol: Protocol | None, ports: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The Service's port of that name or number; of one number's two protocols TCP, unless the other is named."""
    fit = [entry for entry in ports if port in ("", entry.get("name"), str(entry.get("port")))]
    if protocol or len(fit) > 1:
        only = [entry for entry in fit if (entry.get("protocol") or "TCP") == (protocol or Protocol.TCP)]
        fit = only if protocol else only or fit
    if len(fit) == 1:
        return fit[0]
    known = ", ".join(
        f"{entry.get('name') or '-'}={entry.get('port')}/{entry.get('protocol') or 'TCP'}" for entry in ports
    )
    said = f"{port!r}/{protocol}" if protocol else repr(port)
    node_port = any(port == str(entry.get("nodePort")) for entry in ports)
    raise ConfigError(
        f"cannot explain {text}: port {said} is not one of the Service's ports ({known})",
        f"It is its nodePort, which nodes have: node/NAME:{port}" if node_port else "",
    )


def _split(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, _, port = text.partition(":") if text.count(":") == 1 else (text, "", "")
    return host, port


def _address(text: str, forms: str) -> IPAddress:
    try:
        return ip_address(text)
    except ValueError:
        raise ConfigError(f"cannot explain {text!r}: it is not an address", forms) from None


def _number(text: str) -> int:
    if not text:
        return 0
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise ConfigError(f"cannot explain port {text!r}: it is not a port number")
