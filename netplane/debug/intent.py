"""What the API wants of a connection: who SOURCE and TARGET are, and which endpoints may answer.

Pure: objects in, an Intent out. The endpoints come from the proxy's own rules (``proxy.snapshot``), so that the
prediction cannot drift from what the proxy does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from netplane.config import IPAddress, IPNetwork
from netplane.debug.left_out import Asked, each, nobody, slices_of
from netplane.errors import ConfigError
from netplane.kube.objects import (
    Object,
    ObjectKey,
    key_of,
    labels_of,
    name_of,
    resource_version_of,
)
from proxy.frontends import EVERY_ADDRESS
from proxy.model import Frontend, NodeFacts, Protocol, Target, WhenEmpty, joined
from proxy.snapshot import PROXY_NAME_LABEL, build, node_facts
from proxy.userspace.sources import classify, keeps_address

INTERNAL, EXTERNAL = "internalTrafficPolicy", "externalTrafficPolicy"


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
class Choice:
    """An endpoint that may answer. ``seen_as``: the client address it sees; ``kept``: that is the client's own."""

    place: Place
    port: int
    seen_as: IPAddress
    kept: bool


@dataclass(frozen=True, slots=True)
class Intent:
    """What should happen. ``balancer``: the node whose proxy accepts the connection, "" where none does.

    ``refusal``: why nobody may answer, "" where somebody may. ``frontend``: what to ask the proxy about, as
    ``facts.Request`` spells it. ``when_empty``: what the client meets where nobody may answer.
    """

    source: Place
    address: IPAddress
    port: int
    title: str
    balancer: str = ""
    balancer_address: IPAddress | None = None
    choices: tuple[Choice, ...] = ()
    excluded: tuple[str, ...] = ()
    refusal: str = ""
    target_node: str = ""
    frontend: str = ""
    when_empty: WhenEmpty = WhenEmpty.REJECT


def pod_addresses(pod: Object) -> list[IPAddress]:
    """All addresses in the pod's status."""
    status = pod.get("status") or {}
    texts = [entry.get("ip") for entry in status.get("podIPs") or []] or [status.get("podIP")]
    return [ip_address(text) for text in texts if text]


def resolve(source: str, target: str, world: World) -> Intent:
    """Who wants what. Raises ConfigError where SOURCE or TARGET name nothing."""
    start = _source(source, world)
    namespace = start.pod.partition("/")[0] or "default"
    address, port = _target(target, namespace, start, world)
    if any(address in network for network in world.service_cidrs) or _is_frontend(address, port, world):
        return _service(start, address, port, world, balancer=start.node)
    if (pod := world.pod_at(address)) is not None:
        place = _pod_place(pod, address)
        choice = Choice(place, port, start.address, kept=True)
        return Intent(start, address, port, str(place), choices=(choice,), target_node=place.node)
    if (node := world.node_at(address)) is not None:
        return _service(start, address, port, world, balancer=node.name)
    return Intent(start, address, port, f"{address}, which is outside the cluster")


def _source(text: str, world: World) -> Place:
    kind, slash, name = text.partition("/")
    if slash and kind == "node":
        return _node_place(name, text, world)
    if slash:
        pod = world.pod(kind, name)
        if pod is None:
            raise ConfigError(f"cannot explain from {text}: there is no pod {name} in namespace {kind}")
        if not pod_addresses(pod):
            raise ConfigError(f"cannot explain from {text}: the pod has no address yet")
        return _pod_place(pod, pod_addresses(pod)[0])
    address = _address(text, "SOURCE is ns/pod, node/name or an address")
    if (found := world.pod_at(address)) is not None:
        return _pod_place(found, address)
    node = world.node_at(address)
    return Place(address, node.name if node is not None else "")


def _node_place(name: str, text: str, world: World) -> Place:
    node = world.node(name)
    if node is None or not node.addresses:
        raise ConfigError(f"cannot explain {text}: there is no node {name} with an address")
    return Place(node.addresses[0], name)


def _pod_place(pod: Object, address: IPAddress) -> Place:
    spec = pod.get("spec") or {}
    node = str(spec.get("nodeName") or "")
    return Place(address, node, "" if spec.get("hostNetwork") else str(key_of(pod)))


def _target(text: str, namespace: str, start: Place, world: World) -> tuple[IPAddress, int]:
    """Address and port of TARGET; port 0 where none is given and none is needed."""
    kind, slash, rest = text.partition("/")
    if not slash:
        host, port = _split(text)
        return _address(
            host, "TARGET is svc/name:port, ns/pod:port, node/name:port or address:port"
        ), _number(port)
    name, _, port = rest.partition(":")
    if kind == "svc":
        return _service_address(text, name, port, namespace, start, world)
    if kind == "node":
        return _node_place(name, text, world).address, _number(port)
    pod = world.pod(kind, name)
    if pod is None or not pod_addresses(pod):
        raise ConfigError(
            f"cannot explain {text}: there is no pod {name} with an address in namespace {kind}"
        )
    return pod_addresses(pod)[0], _number(port)


def _service_address(
    text: str, name: str, port: str, namespace: str, start: Place, world: World
) -> tuple[IPAddress, int]:
    name, _, given = name.partition(".")
    key = ObjectKey(given.partition(".")[0] or namespace, name)
    service = next((obj for obj in world.services if key_of(obj) == key), None)
    if service is None:
        raise ConfigError(f"cannot explain {text}: there is no Service {name} in namespace {key.namespace}")
    spec = service.get("spec") or {}
    texts = [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]
    addresses = [address for address in map(ip_address, texts) if address.version == start.address.version]
    if not addresses:
        raise ConfigError(
            f"cannot explain {text}: the Service has no ClusterIP of the source's IP version",
            "A headless Service is reached through its pods: explain one of those",
        )
    ports = [
        entry for entry in spec.get("ports") or [] if port in ("", entry.get("name"), str(entry.get("port")))
    ]
    if len(ports) > 1:  # one number may serve two protocols; TCP is what is explained
        ports = [entry for entry in ports if entry.get("protocol", "TCP") == "TCP"] or ports
    if len(ports) != 1:
        known = ", ".join(
            f"{entry.get('name') or '-'}={entry.get('port')}" for entry in spec.get("ports") or []
        )
        raise ConfigError(f"cannot explain {text}: port {port!r} is not one of the Service's ports ({known})")
    return addresses[0], int(ports[0]["port"])


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


def _is_frontend(address: IPAddress, port: int, world: World) -> bool:
    """Whether a Service claims an address that is neither in a Service network nor a node's."""
    targets = build(world.services, world.slices, NodeFacts("")).targets
    return Frontend(address, port, Protocol.TCP) in targets


def _service(start: Place, address: IPAddress, port: int, world: World, *, balancer: str) -> Intent:
    """A connection that a proxy accepts, or (at a node's address) perhaps any process of that node."""
    node = world.node(balancer) or NodeFacts("", (), (), world.cluster_cidrs, world.service_cidrs)
    targets = build(world.services, world.slices, node).targets
    own = address in node.addresses
    frontend = Frontend(EVERY_ADDRESS[address.version] if own else address, port, Protocol.TCP)
    target = targets.get(frontend)
    if target is None and own:
        return Intent(start, address, port, f"port {port} of node {balancer}", target_node=balancer)
    foreign = _left_to_another(address, world)
    if target is None and foreign:
        return Intent(start, address, port, foreign, target_node=balancer)
    if not balancer:
        cause = "a Service's ClusterIP is reachable from inside the cluster only"
        return Intent(start, address, port, f"{address}:{port}", refusal=cause)
    if target is None:
        ports = sorted(f.port for f in targets if f.address == address and f.protocol == Protocol.TCP)
        cause = f"its Service has TCP ports {ports}, not {port}" if ports else "no Service has this address"
        return Intent(start, address, port, f"{address}:{port}", balancer, None, refusal=cause)
    service = next(
        s for s in world.services if key_of(s) == ObjectKey(target.service.namespace, target.service.name)
    )
    choices = tuple(_choices(start, target, node, world))
    inside = classify(str(start.address), node).inside
    spec = service.get("spec") or {}
    kind, policy = _policy(spec, address, own=own)
    local = policy if spec.get(policy) == "Local" and not (inside and policy == EXTERNAL) else ""
    asked = Asked(_port(spec, target), address.version, node, local)
    pieces = slices_of(service, world.slices, address.version)
    title = (
        f"svc {target.service} {kind} {address}:{port}/TCP"
        f" {'etp' if policy == EXTERNAL else 'itp'}={spec.get(policy) or 'Cluster'}"
        f" affinity={spec.get('sessionAffinity', 'None')} rv={resource_version_of(service) or '?'}"
    )
    return Intent(
        start,
        address,
        port,
        title,
        balancer,
        next((a for a in node.addresses if a.version == address.version), None),
        choices,
        tuple(each(pieces, asked, {choice.place.address for choice in choices})),
        "" if choices else nobody(pieces, asked),
        balancer,
        f"{joined(frontend.address, port)}|{'inside' if inside else 'outside'}",
        (target.inside if inside else target.outside).when_empty,
    )


def _policy(spec: Mapping[str, Any], address: IPAddress, *, own: bool) -> tuple[str, str]:
    """What kind of address this is to the Service, and the traffic policy that is meant for such."""
    if own:
        return "NodePort", EXTERNAL
    if str(address) in (spec.get("clusterIPs") or [spec.get("clusterIP")]):
        return "ClusterIP", INTERNAL
    return "external address", EXTERNAL


def _port(spec: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    """The Service's port that a target is of."""
    return next(p for p in spec["ports"] if target.service.port in (p.get("name"), str(p["port"])))


def _left_to_another(address: IPAddress, world: World) -> str:
    """Names the Service at an address whose label leaves it to another proxy than ours; "" for none."""
    for service in world.services:
        proxy = labels_of(service).get(PROXY_NAME_LABEL)
        if proxy and str(address) in ((service.get("spec") or {}).get("clusterIPs") or []):
            return f"svc {key_of(service)} ClusterIP {address}, answered on this node by {proxy}"
    return ""


def _choices(start: Place, target: Target, node: NodeFacts, world: World) -> list[Choice]:
    client = classify(str(start.address), node)
    pool = target.inside if client.inside else target.outside
    found = []
    for endpoint in pool.endpoints:
        pod = world.pod_at(endpoint.address)
        at = world.node_at(endpoint.address)
        elsewhere = Place(endpoint.address, at.name if at is not None else "")
        place = _pod_place(pod, endpoint.address) if pod is not None else elsewhere
        kept = keeps_address(client, endpoint, target.keep_outside_address, node.cluster_cidrs)
        own = next((a for a in node.addresses if a.version == endpoint.address.version), start.address)
        found.append(Choice(place, endpoint.port, start.address if kept else own, kept))
    return found
