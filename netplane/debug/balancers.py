"""What a node does with a connection to a Service: accepts it in its proxy's relay, or translates it. Pure.

Both are held against the API: a data path that is behind it is a cause of its own.
"""

from collections.abc import Sequence

from netplane.debug.eyes import Eyes
from netplane.debug.facts import Lookup
from netplane.debug.hops import Hop, judged, unseen
from netplane.debug.intent import Intent
from netplane.debug.listening import at_address
from proxy.model import WhenEmpty, joined


def differences(
    intent: Intent, has: Sequence[str], lacks: str = "lacks", still_has: str = "still has"
) -> str:
    """How the endpoints of a data path differ from the API's; "" where they do not."""
    wanted = {joined(choice.place.address, choice.port) for choice in intent.choices}
    found = [f"{lacks} {name}" for name in sorted(wanted - set(has))]
    return ", ".join([*found, *(f"{still_has} {name}" for name in sorted(set(has) - wanted))])


def accepted(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """On the node whose proxy (or own process) accepts: delivered locally, past the guard, to a listener."""
    if intent.refusal and intent.when_empty is WhenEmpty.DROP:  # by a rule, before any listener
        return [
            _delivered(eyes, intent, at),
            judged(at, False, f"dropped, as it must be: {intent.refusal}", "API"),
        ]
    return [
        _delivered(eyes, intent, at),
        *_guard(eyes, intent, at),
        *at_address(eyes, intent, at),
        *_picks(eyes, intent, at),
    ]


def translated(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """On the node whose kernel translates: what its own maps have for this frontend."""
    where, place = f"{intent.address}:{intent.port}", "nft inet netplane_services"
    if not intent.frontend:
        return [judged(at, False, f"no Service has {where}: refused", place)]
    has = eyes.translations(at, intent.frontend)
    if eyes.rules(at) is None:
        return [unseen(at, f"the translation of {where}", place, eyes.why_not(at))]
    if has is None:
        return [judged(at, False, f"{where} is in no map: refused", place)]
    if not has:
        met = "dropped" if intent.when_empty is WhenEmpty.DROP else "refused"
        expected = "" if intent.choices else f": {met}, as it must be"
        return [judged(at, False, f"{where} leads to no endpoint{expected}", place)]
    if behind := differences(intent, has):
        return [judged(at, False, f"the table is behind the API: it {behind}", place)]
    one = has[0] if len(has) == 1 else f"one at random of {', '.join(has)}"
    return [judged(at, True, f"{where} becomes {one}", place)]


def _delivered(eyes: Eyes, intent: Intent, at: str) -> Hop:
    source, to = intent.source, intent.address
    arriving = str(source.address) if source.pod or source.node != at else ""
    route = eyes.route(at, Lookup(to=str(to), source=arriving, arriving=arriving))
    what = f"{to} ends on this node"
    if route is None:
        return unseen(at, what, "netlink", eyes.why_not(at))
    return judged(
        at, route.local, f"{what if route.local else f'{to} is not local here'}: {route}", "netlink"
    )


def _guard(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    if intent.balancer_address == intent.address or not intent.balancer:
        return []  # a node's own address is meant to reach the node's wildcard listeners
    rules, place = eyes.rules(at), "nft inet netplane_proxy guard"
    if rules is None:
        return [unseen(at, "guard against the node's own ports", place, eyes.why_not(at))]
    if rules.guard:
        return [judged(at, True, "guard: only a listener of exactly this address is reached", place)]
    missing = "guard MISSING: the node's wildcard listeners are reachable through ClusterIPs"
    return [judged(at, True, missing, place)]


def _picks(eyes: Eyes, intent: Intent, at: str) -> list[Hop]:
    """Whether the proxy picks from the endpoints that the API has."""
    if not intent.frontend or not intent.choices:
        return []
    has = eyes.targets(at, intent.frontend)
    if has is None:
        return [unseen(at, "the proxy's endpoints", "proxy.sock", eyes.why_not(at))]
    if behind := differences(intent, has):
        return [judged(at, False, f"proxy is behind the API: it {behind}", "proxy.sock")]
    return [judged(at, True, f"proxy picks in turn from {', '.join(has)}", "proxy.sock")]
