"""What the API wants of a connection: who SOURCE and TARGET are, and which endpoints may answer.

Pure: objects in, an Intent out. The endpoints come from the proxy's own rules (``proxy.snapshot``), so that the
prediction cannot drift from what the proxy does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from netplane.config import IPAddress
from netplane.debug.ends import Place, Wanted, World, place_of, source_of, target_of
from netplane.debug.left_out import Asked, each, nobody, slices_of
from netplane.errors import ConfigError
from netplane.kube.objects import ObjectKey, key_of, labels_of, resource_version_of
from proxy.frontends import EVERY_ADDRESS
from proxy.model import Frontend, NodeFacts, Protocol, Target, WhenEmpty, joined
from proxy.snapshot import PROXY_NAME_LABEL, build
from proxy.userspace.sources import classify, keeps_address, within

INTERNAL, EXTERNAL = "internalTrafficPolicy", "externalTrafficPolicy"


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
    protocol: Protocol = Protocol.TCP


def resolve(source: str, target: str, world: World) -> Intent:
    """Who wants what. Raises ConfigError where SOURCE or TARGET name nothing."""
    start = source_of(source, world)
    wanted = target_of(target, start, world)
    address, port, protocol = wanted.address, wanted.port, wanted.protocol or Protocol.TCP
    if within(address, world.service_cidrs) or _is_frontend(wanted, world):
        return _service(start, wanted, world, balancer=start.node)
    straight = partial(Intent, start, address, port, protocol=protocol)
    if (pod := world.pod_at(address)) is not None:
        place = place_of(pod, address)
        title = f"{place}{'' if protocol is Protocol.TCP else f', {protocol}'}"
        choice = Choice(place, port, start.address, kept=True)
        return straight(title, choices=(choice,), target_node=place.node)
    if (node := world.node_at(address)) is not None:
        return _service(start, wanted, world, balancer=node.name)
    if network := world.network_of(address):
        nobody_has = f"no pod has this address ({network}'s network)"
        return straight(
            f"{address}, in the pod network of {network}", refusal=nobody_has, target_node=network
        )
    return straight(f"{address}, which is outside the cluster")


def _is_frontend(wanted: Wanted, world: World) -> bool:
    """Whether a Service claims an address that is neither in a Service network nor a node's."""
    targets = build(world.services, world.slices, NodeFacts("")).targets
    return _frontend(wanted, wanted.address, targets) in targets


def _frontend(wanted: Wanted, address: IPAddress, targets: Mapping[Frontend, Target]) -> Frontend:
    """What is asked for: over TCP, unless UDP is said, or is all that there is."""
    both = (Frontend(address, wanted.port, protocol) for protocol in (Protocol.TCP, Protocol.UDP))
    if wanted.protocol is None and (found := next((one for one in both if one in targets), None)):
        return found
    return Frontend(address, wanted.port, wanted.protocol or Protocol.TCP)


def _service(start: Place, wanted: Wanted, world: World, *, balancer: str) -> Intent:
    """A connection that a proxy accepts, or (at a node's address) perhaps any process of that node."""
    address, port = wanted.address, wanted.port
    node = world.node(balancer) or NodeFacts(balancer, (), (), world.cluster_cidrs, world.service_cidrs)
    targets = build(world.services, world.slices, node).targets
    own = address in node.addresses
    frontend = _frontend(wanted, EVERY_ADDRESS[address.version] if own else address, targets)
    protocol = frontend.protocol
    where = f"{joined(address, port)}/{protocol}"
    straight = partial(Intent, start, address, port, protocol=protocol)
    target = targets.get(frontend)
    if target is None and own:
        word = "port" if protocol is Protocol.TCP else f"{protocol} port"
        return straight(f"{word} {port} of node {balancer}", target_node=balancer)
    if not balancer and target is not None and not within(address, world.service_cidrs):
        raise ConfigError(
            f"cannot explain {where} from outside the cluster: the node that it arrives at is not known",
            "Explain the rest of the way from that node: SOURCE node/NAME",
        )
    if not balancer:
        return straight(where, refusal="a Service's ClusterIP is reachable from inside the cluster only")
    if target is None and (foreign := _left_to_another(address, world)):
        service, proxy = foreign
        title = f"svc {service} ClusterIP {where}, answered on this node by {proxy}"
        return straight(title, target_node=balancer)
    if target is None:
        its = sorted((f for f in targets if f.address == address), key=lambda f: f.order)
        ports = ", ".join(f"{f.port}/{f.protocol}" for f in its)
        no_port = f"its Service has ports {ports}, not {port}/{protocol}"
        return straight(where, balancer=balancer, refusal=no_port if its else "no Service has this address")
    return _balanced(start, address, frontend, target, node, world)


def _balanced(
    start: Place, address: IPAddress, frontend: Frontend, target: Target, node: NodeFacts, world: World
) -> Intent:
    """A connection to a Service, by its own rules on the node that accepts."""
    key = ObjectKey(target.service.namespace, target.service.name)
    service = next(one for one in world.services if key_of(one) == key)
    spec = service.get("spec") or {}
    inside = classify(str(start.address), node).inside
    choices = tuple(_choices(start, target, node, world))
    kind, policy = _policy(spec, address, own=frontend.address.is_unspecified)
    local = policy if spec.get(policy) == "Local" and not (inside and policy == EXTERNAL) else ""
    asked = Asked(_port(spec, target), address.version, node, local)
    pieces = slices_of(service, world.slices, address.version)
    return Intent(
        start,
        address,
        frontend.port,
        f"svc {target.service} {kind} {joined(address, frontend.port)}/{frontend.protocol}"
        f" {'etp' if policy == EXTERNAL else 'itp'}={spec.get(policy) or 'Cluster'}"
        f" affinity={spec.get('sessionAffinity', 'None')} rv={resource_version_of(service) or '?'}",
        balancer=node.name,
        balancer_address=node.address(address.version),
        choices=choices,
        excluded=tuple(each(pieces, asked, {choice.place.address for choice in choices})),
        refusal="" if choices else nobody(pieces, asked),
        target_node=node.name,
        frontend=f"{frontend}|{'inside' if inside else 'outside'}",
        when_empty=(target.inside if inside else target.outside).when_empty,
        protocol=frontend.protocol,
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
    return next(p for p in spec["ports"] if target.service.port == (p.get("name") or str(p["port"])))


def _left_to_another(address: IPAddress, world: World) -> tuple[str, str] | None:
    """The Service at an address whose label leaves it to another proxy than ours, and that one's name."""
    for service in world.services:
        proxy = labels_of(service).get(PROXY_NAME_LABEL)
        if proxy and str(address) in ((service.get("spec") or {}).get("clusterIPs") or []):
            return str(key_of(service)), proxy
    return None


def _choices(start: Place, target: Target, node: NodeFacts, world: World) -> list[Choice]:
    client = classify(str(start.address), node)
    pool = target.inside if client.inside else target.outside
    found = []
    for endpoint in pool.endpoints:
        pod = world.pod_at(endpoint.address)
        at = world.node_at(endpoint.address)
        elsewhere = Place(endpoint.address, at.name if at is not None else "")
        place = place_of(pod, endpoint.address) if pod is not None else elsewhere
        kept = keeps_address(client, endpoint, target.keep_outside_address, node.cluster_cidrs)
        own = next((a for a in node.addresses if a.version == endpoint.address.version), start.address)
        found.append(Choice(place, endpoint.port, start.address if kept else own, kept))
    return found
