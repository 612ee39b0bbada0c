"""The walk of one connection, hop by hop: out, to each endpoint that may answer, and back.

Pure. The walk's steps follow from the Intent alone, never from what is seen; so one function serves twice: with
``Eyes`` that know nothing it collects what each node must be asked, with the nodes' answers it judges.
"""

from dataclasses import dataclass
from enum import StrEnum

from netplane.config import IPAddress
from netplane.debug import told
from netplane.debug.eyes import Eyes
from netplane.debug.facts import Lookup, Request
from netplane.debug.intent import Choice, Intent
from proxy.model import joined

PEER_ROUTES = 98  # the node agent's route protocol
MARK = 0x200  # proxy.userspace.ruleset.MARK: replies to connections that carry a client's address
WILDCARDS = ("0.0.0.0", "::")


class State(StrEnum):
    """What a hop turned out to be; UNSEEN says nothing about packets."""

    OK = "ok"
    BROKEN = "broken"
    UNSEEN = "not observed"


@dataclass(frozen=True, slots=True)
class Hop:
    """One step: where, what the kernel says, and where that was read."""

    node: str
    state: State
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Branch:
    """The part of the walk that belongs to one endpoint: the way there, and its answer's way back."""

    choice: Choice
    out: tuple[Hop, ...]
    back: tuple[Hop, ...]

    @property
    def hops(self) -> tuple[Hop, ...]:
        """Both ways."""
        return (*self.out, *self.back)


@dataclass(frozen=True, slots=True)
class Walk:
    """The whole connection: up to the balancer (or target), one branch an endpoint, back to the client.

    ``translated``: by the kernel, which tries no other endpoint when one does not answer. ``told``: at the socket.
    """

    out: tuple[Hop, ...]
    branches: tuple[Branch, ...]
    back: tuple[Hop, ...]
    translated: bool = False
    told: bool = False


def _as_told(eyes: Eyes, intent: Intent, has: tuple[str, ...]) -> Walk:
    """The source's socket is told an endpoint: one way to a pod for each."""
    source = intent.source
    behind = told.difference(intent, has)
    text = f"the maps are behind the API: they {behind}" if behind else told.words(intent, has)
    first = _hop(source.node, not behind and bool(has), text, told.PLACE)
    branches = []
    for choice in intent.choices:
        direct, seen = told.as_to_a_pod(intent, choice)
        if told.within(intent, choice):
            own = _hop(source.node, True, "it speaks to itself: no packet leaves the pod", "-")
            branches.append(Branch(seen, (own, *_endpoint(eyes, seen)[1:]), ()))
            continue
        out: list[Hop] = []
        if source.pod:
            out += _leave_pod(eyes, source.node, source.address, choice.place.address)
            out.append(_forwards(eyes, source.node))
        out += [*_to_endpoint(eyes, direct, seen, source.node, False), *_endpoint(eyes, seen)]
        back = _from_endpoint(eyes, direct, seen, source.node, False)
        branches.append(Branch(seen, tuple(out), (*back, *_arrive(eyes, direct, choice.place.address))))
    return Walk((first,), tuple(branches), (), translated=True, told=True)


def requests(intent: Intent) -> dict[str, Request]:
    """What every node must be asked before the walk can be judged."""
    eyes = Eyes({})
    for translated in (False, True):
        walk(intent, eyes, translated=translated)
    if intent.balancer and intent.balancer == intent.source.node:
        _as_told(eyes, intent, ())
    return eyes.requests()


def walk(intent: Intent, eyes: Eyes, *, translated: bool | None = None) -> Walk:
    """Every hop of the connection, judged by what the eyes saw.

    ``translated``: whether the kernel balances, and not the relay; by default as it was seen.
    """
    source, to = intent.source, intent.address
    if translated is None and (has := told.told(eyes, intent)) is not None:
        return _as_told(eyes, intent, has)
    if translated is None:
        translated = bool(intent.balancer) and eyes.translates(intent.balancer)
    translated = translated and bool(intent.balancer)
    out: list[Hop] = []
    if source.pod:
        out += _leave_pod(eyes, source.node, source.address, to)
        if intent.target_node != source.node or (intent.choices and not intent.balancer):
            out.append(_forwards(eyes, source.node))
    if not intent.balancer and intent.choices:  # straight to a pod
        (choice,) = intent.choices
        return Walk(
            tuple(out), (_branch(eyes, intent, choice, source.node, False),), tuple(_arrive(eyes, intent, to))
        )
    at = intent.target_node or intent.balancer
    if at and source.node and at != source.node:
        out.append(_towards(eyes, source.node, to, source.address if source.pod else None, at))
    if not at:
        out.append(_towards(eyes, source.node, to, source.address if source.pod else None, ""))
        out.append(
            _hop(source.node, None, f"the way on to {to}", "-", "nothing beyond this node is ours to see")
        )
        return Walk(tuple(out), (), ())
    out += _translated(eyes, intent, at) if translated else _accepted(eyes, intent, at)
    branches = tuple(_branch(eyes, intent, choice, at, translated) for choice in intent.choices)
    return Walk(tuple(out), branches, tuple(_arrive(eyes, intent, to)), translated)


def _hop(node: str, seen: bool | None, text: str, source: str, why: str = "") -> Hop:
    """``seen``: True fine, False broken, None not observed."""
    if seen is None:
        return Hop(node or "-", State.UNSEEN, f"{text}: not observed from here ({why})", source)
    return Hop(node, State.OK if seen else State.BROKEN, text, source)


def _leave_pod(eyes: Eyes, node: str, pod: IPAddress, to: IPAddress) -> list[Hop]:
    """From the pod's own routing table to the host's end of its veth."""
    route = eyes.route(node, Lookup(to=str(to), namespace=str(pod)))
    attached = eyes.pod(node, pod)
    inode = f", namespace {attached.namespace}" if attached and attached.namespace else ""
    own = f"pod's route to {to}"
    first = (
        _hop(node, None, own, "netlink", eyes.why_not(node))
        if route is None
        else _hop(node, not route.error, f"{own}: {route}", f"netlink in the pod{inode}")
    )
    return [first, _veth(eyes, node, pod, "leaves the pod at")]


def _veth(eyes: Eyes, node: str, pod: IPAddress, verb: str) -> Hop:
    attached = eyes.pod(node, pod)
    if attached is None:
        return _hop(node, None, f"{verb} the veth of {pod}", "netlink", eyes.why_not(node))
    state = (
        f"{attached.device} is {'up' if attached.up else 'DOWN'}"
        if attached.device
        else "no link leads to it"
    )
    if not attached.routed:
        return _hop(node, False, f"no route to {pod}/{pod.max_prefixlen}: {state}", "netlink")
    return _hop(node, attached.up, f"{verb} {attached.device}: {state}", "netlink")


def _towards(eyes: Eyes, node: str, to: IPAddress, source: IPAddress | None, at: str) -> Hop:
    """A node's decision to send a packet on to another node (``at``), or out of the cluster ("")."""
    arriving = str(source) if source else ""
    route = eyes.route(node, Lookup(to=str(to), source=arriving, arriving=arriving))
    text = f"route to {to}" + (f" on {at}" if at else " (outside the cluster)")
    if route is None:
        return _hop(node, None, text, "netlink", eyes.why_not(node))
    if not at:
        return _hop(node, not route.error, f"{text}: {route}", "netlink")
    return _hop(node, not route.error and not route.local, f"{text}: {route}", "netlink")


def _accepted(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """On the node whose proxy (or own process) accepts: delivered locally, past the guard, to a listener."""
    source, to = intent.source, intent.address
    arriving = str(source.address) if source.pod or source.node != at else ""
    route = eyes.route(at, Lookup(to=str(to), source=arriving, arriving=arriving))
    what = f"{to} ends on this node"
    first = (
        _hop(at, None, what, "netlink", eyes.why_not(at))
        if route is None
        else _hop(
            at,
            route.local,
            f"{what}: {route}" if route.local else f"{to} is not local here: {route}",
            "netlink",
        )
    )
    return [first, *_guard(eyes, intent, at), *_listening(eyes, intent, at), *_picks(eyes, intent, at)]


def _guard(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    if intent.balancer_address == intent.address or not intent.balancer:
        return []  # a node's own address is meant to reach the node's wildcard listeners
    rules = eyes.rules(at)
    place = "nft inet netplane_proxy guard"
    if rules is None:
        return [_hop(at, None, "guard against the node's own ports", place, eyes.why_not(at))]
    if rules.guard:
        return [_hop(at, True, "guard: only a listener of exactly this address is reached", place)]
    return [
        _hop(at, True, "guard MISSING: the node's wildcard listeners are reachable through ClusterIPs", place)
    ]


def _listening(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    if not intent.port:
        return []
    found = eyes.listeners(at, intent.port)
    where = f"{intent.address}:{intent.port}"
    if found is None:
        return [_hop(at, None, f"listener at {where}", "/proc/net/tcp", eyes.why_not(at))]
    exact = [entry for entry in found if entry.address == str(intent.address)]
    own = intent.balancer_address == intent.address or not intent.balancer
    if own:
        exact += [entry for entry in found if entry.address in WILDCARDS]
    if exact:
        owner = f" by {exact[0].process}" if exact[0].process else ""
        return [_hop(at, True, f"accepted at {exact[0].address}:{intent.port}{owner}", "/proc/net/tcp")]
    expected = "" if intent.choices or not intent.balancer else ", as it must be without endpoints"
    return [_hop(at, False, f"nothing listens at {where}: connection refused{expected}", "/proc/net/tcp")]


def _picks(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """Whether the proxy picks from the endpoints that the API has: a stale proxy is a cause of its own."""
    if not intent.frontend or not intent.choices:
        return []
    has = eyes.targets(at, intent.frontend)
    if has is None:
        return [_hop(at, None, "the proxy's endpoints", "proxy.sock", eyes.why_not(at))]
    wanted = {joined(choice.place.address, choice.port) for choice in intent.choices}
    if wanted == set(has):
        return [_hop(at, True, f"proxy picks in turn from {', '.join(has)}", "proxy.sock")]
    differences = [f"lacks {name}" for name in sorted(wanted - set(has))]
    differences += [f"still has {name}" for name in sorted(set(has) - wanted)]
    return [_hop(at, False, f"proxy is behind the API: it {', '.join(differences)}", "proxy.sock")]


def _translated(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """On the node whose kernel translates: what its own maps have for this frontend."""
    where, place = f"{intent.address}:{intent.port}", "nft inet netplane_services"
    if not intent.frontend:
        return [_hop(at, False, f"no Service has {where}: refused", place)]
    has = eyes.translations(at, intent.frontend)
    if eyes.rules(at) is None:
        return [_hop(at, None, f"the translation of {where}", place, eyes.why_not(at))]
    if has is None:
        return [_hop(at, False, f"{where} is in no map: refused", place)]
    if not has:
        expected = "" if intent.choices else ", as it must be without endpoints"
        return [_hop(at, False, f"{where} leads to no endpoint: refused or dropped{expected}", place)]
    wanted = {joined(choice.place.address, choice.port) for choice in intent.choices}
    differences = [f"lacks {name}" for name in sorted(wanted - set(has))]
    differences += [f"still has {name}" for name in sorted(set(has) - wanted)]
    if differences:
        return [_hop(at, False, f"the table is behind the API: it {', '.join(differences)}", place)]
    text = (
        f"{where} becomes {has[0]}" if len(has) == 1 else f"{where} becomes one at random of {', '.join(has)}"
    )
    return [_hop(at, True, text, place)]


def _branch(eyes: Eyes, intent: Intent, choice: Choice, start: str, translated: bool) -> Branch:
    """From the node ``start`` to one endpoint and back to ``start``."""
    out = [*_to_endpoint(eyes, intent, choice, start, translated), *_endpoint(eyes, choice)]
    return Branch(choice, tuple(out), tuple(_from_endpoint(eyes, intent, choice, start, translated)))


def _to_endpoint(eyes: Eyes, intent: Intent, choice: Choice, start: str, translated: bool) -> list[Hop]:
    to, node = choice.place.address, choice.place.node
    passes = intent.source.pod and (translated or not intent.balancer)
    forwarded = str(intent.source.address) if passes else ""
    hops: list[Hop] = []
    if start and start != node:
        route = eyes.route(start, Lookup(to=str(to), source=forwarded, arriving=forwarded))
        text = f"route to {to} on {node or 'an unknown node'}"
        if route is None:
            hops.append(_hop(start, None, text, "netlink", eyes.why_not(start)))
        else:
            fine = not route.error and not route.local
            ours = route.protocol == PEER_ROUTES or not choice.place.pod
            foreign = "" if ours else " (not a route of the node agent)"
            hops.append(_hop(start, fine, f"{text}: {route}{foreign if fine else ''}", "netlink"))
    if start != node and choice.place.pod:
        hops.append(_forwards(eyes, node))
    return hops


def _forwards(eyes: Eyes, node: str) -> Hop:
    allowed = eyes.forwarding(node)
    text = "forwards packets" if allowed is not False else "does not forward packets (net.ipv4.ip_forward=0)"
    return _hop(node, allowed, text, "sysctl", eyes.why_not(node))


def _endpoint(eyes: Eyes, choice: Choice) -> list[Hop]:
    node, address, port = choice.place.node, choice.place.address, choice.port
    if not choice.place.pod:  # an endpoint on the node's own network
        found = eyes.listeners(node, port)
    else:
        attached = eyes.pod(node, address)
        seen = attached is not None and attached.namespace
        found = attached.listeners if attached is not None and seen else None
    hops = [_veth(eyes, node, address, "reaches the pod at")] if choice.place.pod else []
    if not port:
        return hops
    text = (
        f"pod {choice.place.pod} listens at port {port}" if choice.place.pod else f"{address}:{port} listens"
    )
    if found is None:
        return [*hops, _hop(node, None, text, "/proc/net/tcp in the pod", eyes.why_not(node))]
    usable = (str(address), *WILDCARDS)
    if any(entry.port == port and entry.address in usable for entry in found):
        return [*hops, _hop(node, True, text, "/proc/net/tcp in the pod")]
    return [
        *hops,
        _hop(
            node,
            False,
            f"nothing listens at {address}:{port}: connection refused",
            "/proc/net/tcp in the pod",
        ),
    ]


def _from_endpoint(eyes: Eyes, intent: Intent, choice: Choice, start: str, translated: bool) -> list[Hop]:
    """The answer's way back to whoever the endpoint saw, on to the node it has to pass."""
    node, address, client = choice.place.node, str(choice.place.address), str(choice.seen_as)
    hops: list[Hop] = []
    if choice.place.pod:
        route = eyes.route(node, Lookup(to=client, namespace=address))
        text = f"pod's route to {client}"
        hops.append(
            _hop(node, None, text, "netlink", eyes.why_not(node))
            if route is None
            else _hop(node, not route.error, f"{text}: {route}", "netlink in the pod")
        )
    diverted = MARK if intent.balancer and choice.kept and not translated else 0
    arriving = address if choice.place.pod else ""
    if start and start != node:
        route = eyes.route(node, Lookup(to=client, source=arriving, arriving=arriving))
        text = f"answer to {client} goes to {start}"
        if route is None:
            hops.append(_hop(node, None, text, "netlink", eyes.why_not(node)))
        else:
            hops.append(_hop(node, not route.error and not route.local, f"{text}: {route}", "netlink"))
    if intent.balancer and not (translated and choice.kept):  # else it goes straight on to the client
        hops += _caught(eyes, start, client, address, diverted, "is translated back" if translated else "")
    return hops


def _caught(eyes: Eyes, node: str, client: str, endpoint: str, mark: int, instead: str = "") -> list[Hop]:
    """The answer ends at the proxy's socket: by the divert rule where it carries the client's address.

    ``instead``: what the kernel does with it where there is no such socket.
    """
    hops: list[Hop] = []
    if mark:
        rules = eyes.rules(node)
        place = "nft inet netplane_proxy divert"
        if rules is None:
            hops.append(_hop(node, None, "divert rule", place, eyes.why_not(node)))
        elif rules.divert:
            hops.append(_hop(node, True, f"answers to the proxy's sockets are marked {mark:#x}", place))
        else:
            hops.append(_hop(node, False, "divert rule is missing: answers pass the proxy by", place))
    route = eyes.route(node, Lookup(to=client, source=endpoint, arriving=endpoint, mark=mark))
    text = f"answer to {client} {instead or 'comes back to the proxy'}"
    if route is None:
        return [*hops, _hop(node, None, text, "netlink", eyes.why_not(node))]
    return [*hops, _hop(node, route.local, f"{text}: {route}", "netlink")]


def _arrive(eyes: Eyes, intent: Intent, came_from: IPAddress) -> list[Hop]:
    """The last part of the way back: from the accepting side to the client."""
    source = intent.source
    at = intent.target_node if intent.balancer == "" else intent.balancer
    if not source.node:
        beyond = f"the way from {at} to {source.address}"
        return [
            _towards(eyes, at, source.address, None, at=""),
            _hop(at, None, beyond, "-", "the client is outside the cluster"),
        ]
    if at == source.node and not source.pod:
        return []  # both ends on the node itself
    if at == source.node and intent.balancer:
        route = eyes.route(at, Lookup(to=str(source.address)))
        origin = ""
    else:
        origin = str(came_from)
        route = eyes.route(source.node, Lookup(to=str(source.address), source=origin, arriving=origin))
    attached = eyes.pod(source.node, source.address) if source.pod else None
    text = f"answer from {came_from} to {source.address}"
    if route is None:
        return [_hop(source.node, None, text, "netlink", eyes.why_not(source.node))]
    if source.pod:
        fine = not route.error and attached is not None and route.device == attached.device
        return [_hop(source.node, fine, f"{text}: {route}", "netlink")]
    return [_hop(source.node, route.local, f"{text}: {route}", "netlink")]
