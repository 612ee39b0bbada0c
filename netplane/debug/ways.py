"""The way of packets between a pod, its node and other nodes: links, routing decisions, nodes that forward.

Pure. Routes are asked as the kernel meets the packet: from where it arrives, with its source and its mark, because
only so is the answer the one that the packet gets.
"""

from collections.abc import Callable

from netplane.config import IPAddress
from netplane.debug.ends import Place
from netplane.debug.eyes import Eyes
from netplane.debug.facts import Lookup, Route
from netplane.debug.hops import Hop, judged, unseen
from netplane.debug.intent import Choice, Intent

PEER_ROUTES = 98  # the node agent's route protocol
MARK = 0x200  # proxy.userspace.ruleset.MARK: replies to connections that carry a client's address


def leave_pod(eyes: Eyes, node: str, pod: IPAddress, to: IPAddress) -> list[Hop]:
    """From the pod's own routing table to the host's end of its veth."""
    return [_own_route(eyes, node, pod, str(to), named=True), veth(eyes, node, pod, "leaves the pod at")]


def veth(eyes: Eyes, node: str, pod: IPAddress, verb: str) -> Hop:
    """The host's end of a pod's link, and the route that leads to it."""
    attached = eyes.pod(node, pod)
    if attached is None:
        return unseen(node, f"{verb} the veth of {pod}", "netlink", eyes.why_not(node))
    state = (
        f"{attached.device} is {'up' if attached.up else 'DOWN'}"
        if attached.device
        else "no link leads to it"
    )
    if not attached.routed:
        return judged(node, False, f"no route to {pod}/{pod.max_prefixlen}: {state}", "netlink")
    return judged(node, attached.up, f"{verb} {attached.device}: {state}", "netlink")


def forwards(eyes: Eyes, node: str) -> Hop:
    """Whether a node passes on what is not its own."""
    allowed = eyes.forwarding(node)
    if allowed is None:
        return unseen(node, "forwards packets", "sysctl", eyes.why_not(node))
    text = "forwards packets" if allowed else "does not forward packets (net.ipv4.ip_forward=0)"
    return judged(node, allowed, text, "sysctl")


def passes(eyes: Eyes, intent: Intent, choice: Choice | None = None) -> Hop:
    """The source's node passes on what its pod sends; to a pod of its own maybe without its stack."""
    node = intent.source.node
    if choice is not None and choice.place.pod and choice.place.node == node:
        here, there = (eyes.pod(node, end.address) for end in (intent.source, choice.place))
        if here is not None and there is not None and here.short and there.short:
            text = f"from {here.device} straight into the pod behind {there.device}, past the host's stack"
            return judged(node, True, text, "BPF maps of the pods' links")
    return forwards(eyes, node)


def towards(eyes: Eyes, node: str, to: IPAddress, source: IPAddress | None, at: str) -> Hop:
    """A node's decision to send a packet on to another node (``at``), or out of the cluster ("")."""
    arriving = str(source) if source else ""
    lookup = Lookup(to=str(to), source=arriving, arriving=arriving)
    if at:
        return _routed(eyes, node, lookup, f"route to {to} on {at}", _on)
    return _routed(eyes, node, lookup, f"route to {to} (outside the cluster)", _any)


def beyond(node: str, what: str, why: str) -> Hop:
    """What is nobody's to see from here."""
    return unseen(node, what, "-", why)


def to_endpoint(eyes: Eyes, intent: Intent, choice: Choice, start: str, *, translated: bool) -> list[Hop]:
    """From the node ``start`` to the node of an endpoint."""
    place = choice.place
    passes = intent.source.pod and (translated or not intent.balancer)
    forwarded = str(intent.source.address) if passes else ""
    hops: list[Hop] = []
    if start and start != place.node:
        text = f"route to {place.address} on {place.node or 'an unknown node'}"
        lookup = Lookup(to=str(place.address), source=forwarded, arriving=forwarded)
        hops.append(_routed(eyes, start, lookup, text, _on, _by_another if place.pod else None))
    if start != place.node and place.pod:
        hops.append(forwards(eyes, place.node))
    return hops


def into_endpoint(eyes: Eyes, choice: Choice) -> list[Hop]:
    """Into the endpoint's pod; an endpoint on its node's own network is there already."""
    return (
        [veth(eyes, choice.place.node, choice.place.address, "reaches the pod at")]
        if choice.place.pod
        else []
    )


def from_endpoint(eyes: Eyes, intent: Intent, choice: Choice, start: str, *, translated: bool) -> list[Hop]:
    """The answer's way back to whoever the endpoint saw, on to the node it has to pass."""
    node, address, client = choice.place.node, str(choice.place.address), str(choice.seen_as)
    hops: list[Hop] = []
    if choice.place.pod:
        hops.append(_own_route(eyes, node, choice.place.address, client))
    if start and start != node:
        arriving = address if choice.place.pod else ""
        lookup = Lookup(to=client, source=arriving, arriving=arriving)
        hops.append(_routed(eyes, node, lookup, f"answer to {client} goes to {start}", _on))
    if (
        intent.balancer and translated and not choice.kept
    ):  # where it is kept, it goes straight on to the client
        hops.append(_caught(eyes, start, client, address, "is translated back"))
    elif intent.balancer and not translated:
        mark = MARK if choice.kept else 0
        hops += [_divert(eyes, start)] if mark else []
        hops.append(_caught(eyes, start, client, address, "comes back to the proxy", mark))
    return hops


def arrive(eyes: Eyes, intent: Intent, answering: Place) -> list[Hop]:
    """The last part of the way back: from the accepting side to the client."""
    source, at = intent.source, answering.node
    if not source.node:
        return _out_to_the_client(eyes, source.address, answering)
    if at == source.node and not source.pod:
        return []  # both ends on the node itself
    sent_here = at == source.node and not answering.pod  # what a node sends itself arrives from no device
    origin = "" if sent_here else str(answering.address)
    lookup = Lookup(to=str(source.address), source=origin, arriving=origin)
    text = f"answer from {answering.address} to {source.address}"
    if not source.pod:
        return [_routed(eyes, source.node, lookup, text, _local)]
    attached = eyes.pod(source.node, source.address)
    device = attached.device if attached else None
    return [_routed(eyes, source.node, lookup, text, lambda route: _any(route) and route.device == device)]


def _out_to_the_client(eyes: Eyes, client: IPAddress, answering: Place) -> list[Hop]:
    """To a client outside the cluster. It called a node, so it has a way to it; whether it has one to a pod decides."""
    decision = towards(eyes, answering.node, client, None, at="")
    if not answering.pod:
        return [decision]
    way = f"the way from {answering.node} to {client}"
    return [decision, beyond(answering.node, way, "the client is outside the cluster")]


def _own_route(eyes: Eyes, node: str, pod: IPAddress, to: str, *, named: bool = False) -> Hop:
    """What the pod's own routing table says; ``named``: with the namespace that was looked into."""
    attached = eyes.pod(node, pod)
    inode = f", namespace {attached.namespace}" if named and attached and attached.namespace else ""
    lookup = Lookup(to=to, namespace=str(pod))
    return _routed(eyes, node, lookup, f"pod's route to {to}", _any, place=f"netlink in the pod{inode}")


def _divert(eyes: Eyes, node: str) -> Hop:
    """An answer that carries the client's address is led to the proxy's socket by a rule."""
    rules, place = eyes.rules(node), "nft inet netplane_proxy divert"
    if rules is None:
        return unseen(node, "divert rule", place, eyes.why_not(node))
    if rules.divert:
        return judged(node, True, f"answers to the proxy's sockets are marked {MARK:#x}", place)
    return judged(node, False, "divert rule is missing: answers pass the proxy by", place)


def _caught(eyes: Eyes, node: str, client: str, endpoint: str, how: str, mark: int = 0) -> Hop:
    """The answer ends on the node that sent the request on."""
    lookup = Lookup(to=client, source=endpoint, arriving=endpoint, mark=mark)
    return _routed(eyes, node, lookup, f"answer to {client} {how}", _local)


def _routed(
    eyes: Eyes,
    node: str,
    lookup: Lookup,
    text: str,
    fine: Callable[[Route], bool],
    remark: Callable[[Route], str] | None = None,
    *,
    place: str = "netlink",
) -> Hop:
    """One routing decision, held against what it should be."""
    route = eyes.route(node, lookup)
    if route is None:
        return unseen(node, text, "netlink", eyes.why_not(node))
    good = fine(route)
    said = remark(route) if good and remark else ""
    return judged(node, good, f"{text}: {route}{said}", place)


def _any(route: Route) -> bool:
    return not route.error


def _on(route: Route) -> bool:
    return not route.error and not route.local


def _local(route: Route) -> bool:
    return route.local


def _by_another(route: Route) -> str:
    return "" if route.protocol == PEER_ROUTES else " (not a route of the node agent)"
