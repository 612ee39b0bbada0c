"""Whether somebody listens: at the address that a client calls, and at an endpoint's. Pure."""

from netplane.debug.eyes import Eyes
from netplane.debug.facts import Listener
from netplane.debug.hops import Hop, judged, unseen
from netplane.debug.intent import Choice, Intent
from proxy.model import Protocol

WILDCARDS = ("0.0.0.0", "::")


def at_address(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """The listener that accepts on node ``at``; none is asked for where no port was named."""
    if not intent.port:
        return []
    found = eyes.listeners(at, intent.port)
    where, place = f"{intent.address}:{intent.port}", f"/proc/net/{intent.protocol.lower()}"
    if found is None:
        return [unseen(at, f"listener at {where}", place, eyes.why_not(at))]
    found = _of(intent.protocol, found)
    exact = [entry for entry in found if entry.address == str(intent.address)]
    if intent.balancer_address == intent.address or not intent.balancer:  # a node's own address
        exact += [entry for entry in found if entry.address in WILDCARDS]
    if exact:
        owner = f" by {exact[0].process}" if exact[0].process else ""
        return [judged(at, True, f"accepted at {exact[0].address}:{intent.port}{owner}", place)]
    expected = "" if intent.choices or not intent.balancer else ", as it must be without endpoints"
    return [judged(at, False, f"nothing listens at {where}: {_met(intent.protocol)}{expected}", place)]


def at_endpoint(eyes: Eyes, choice: Choice, protocol: Protocol) -> list[Hop]:
    """The endpoint's own listener: in its pod, or on the node's own network."""
    node, address, port = choice.place.node, choice.place.address, choice.port
    if not port:
        return []
    place = f"/proc/net/{protocol.lower()} in the pod"
    if choice.place.pod:
        attached = eyes.pod(node, address)
        found = attached.listeners if attached is not None and attached.namespace else None
        text = f"pod {choice.place.pod} listens at port {port}"
    else:
        found, text = eyes.listeners(node, port), f"{address}:{port} listens"
    if found is None:
        return [unseen(node, text, place, eyes.why_not(node))]
    here = (str(address), *WILDCARDS)
    if any(entry.port == port and entry.address in here for entry in _of(protocol, found)):
        return [judged(node, True, text, place)]
    return [judged(node, False, f"nothing listens at {address}:{port}: {_met(protocol)}", place)]


def _of(protocol: Protocol, found: tuple[Listener, ...]) -> tuple[Listener, ...]:
    return tuple(entry for entry in found if entry.protocol == protocol)


def _met(protocol: Protocol) -> str:
    """What a client meets where nobody listens."""
    return "connection refused" if protocol is Protocol.TCP else "port unreachable"
