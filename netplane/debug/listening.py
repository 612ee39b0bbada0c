"""Whether somebody listens: at the address that a client calls, and at an endpoint's. Pure."""

from netplane.debug.eyes import Eyes
from netplane.debug.hops import Hop, judged, unseen
from netplane.debug.intent import Choice, Intent

WILDCARDS = ("0.0.0.0", "::")


def at_address(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """The listener that accepts on node ``at``; none is asked for where no port was named."""
    if not intent.port:
        return []
    found = eyes.listeners(at, intent.port)
    where = f"{intent.address}:{intent.port}"
    if found is None:
        return [unseen(at, f"listener at {where}", "/proc/net/tcp", eyes.why_not(at))]
    exact = [entry for entry in found if entry.address == str(intent.address)]
    if intent.balancer_address == intent.address or not intent.balancer:  # a node's own address
        exact += [entry for entry in found if entry.address in WILDCARDS]
    if exact:
        owner = f" by {exact[0].process}" if exact[0].process else ""
        return [judged(at, True, f"accepted at {exact[0].address}:{intent.port}{owner}", "/proc/net/tcp")]
    expected = "" if intent.choices or not intent.balancer else ", as it must be without endpoints"
    return [judged(at, False, f"nothing listens at {where}: connection refused{expected}", "/proc/net/tcp")]


def at_endpoint(eyes: Eyes, choice: Choice) -> list[Hop]:
    """The endpoint's own listener: in its pod, or on the node's own network."""
    node, address, port = choice.place.node, choice.place.address, choice.port
    if not port:
        return []
    place = "/proc/net/tcp in the pod"
    if choice.place.pod:
        attached = eyes.pod(node, address)
        found = attached.listeners if attached is not None and attached.namespace else None
        text = f"pod {choice.place.pod} listens at port {port}"
    else:
        found, text = eyes.listeners(node, port), f"{address}:{port} listens"
    if found is None:
        return [unseen(node, text, place, eyes.why_not(node))]
    if any(entry.port == port and entry.address in (str(address), *WILDCARDS) for entry in found):
        return [judged(node, True, text, place)]
    return [judged(node, False, f"nothing listens at {address}:{port}: connection refused", place)]
