"""The walk of one connection, hop by hop: out, to each endpoint that may answer, and back.

Pure. The walk's steps follow from the Intent alone, never from what is seen; so one function serves twice: with
``Eyes`` that know nothing it collects what each node must be asked, with the nodes' answers it judges.
"""

from netplane.debug import balancers, ways
from netplane.debug.ends import Place
from netplane.debug.eyes import Eyes
from netplane.debug.facts import Request
from netplane.debug.hops import Branch, Hop, Walk
from netplane.debug.intent import Choice, Intent
from netplane.debug.listening import at_endpoint
from netplane.debug.told import as_told, told


def requests(intent: Intent) -> dict[str, Request]:
    """What every node must be asked before the walk can be judged."""
    eyes = Eyes({})
    for translated in (False, True):
        walk(intent, eyes, translated=translated)
    if intent.balancer and intent.balancer == intent.source.node:
        as_told(eyes, intent, ())
    return eyes.requests()


def walk(intent: Intent, eyes: Eyes, *, translated: bool | None = None) -> Walk:
    """Every hop of the connection, judged by what the eyes saw.

    ``translated``: whether the kernel balances, and not the relay; by default as it was seen.
    """
    if translated is None:
        if (has := told(eyes, intent)) is not None:
            return as_told(eyes, intent, has)
        translated = bool(intent.balancer) and eyes.translates(intent.balancer)
    if not intent.balancer and intent.choices:
        return _to_a_pod(eyes, intent)
    at = intent.target_node or intent.balancer
    if not at:
        return _out_of_the_cluster(eyes, intent)
    if intent.refusal and not intent.balancer:
        return _to_nobody(eyes, intent, at)
    return _by_a_node(eyes, intent, at, translated=translated and bool(intent.balancer))


def _to_a_pod(eyes: Eyes, intent: Intent) -> Walk:
    """Straight, with nobody in between; each node on the way forwards."""
    out = _leave(eyes, intent, forwarded=True)
    (choice,) = intent.choices
    branch = _branch(eyes, intent, choice, intent.source.node, translated=False)
    return Walk(tuple(out), (branch,), tuple(ways.arrive(eyes, intent, choice.place)))


def _to_nobody(eyes: Eyes, intent: Intent, at: str) -> Walk:
    """To the node ``at`` that the address would be a pod of."""
    source, to = intent.source, intent.address
    out = _leave(eyes, intent, forwarded=True)
    if source.node and at != source.node:
        out.append(ways.towards(eyes, source.node, to, source.address if source.pod else None, at))
    return Walk((*out, ways.veth(eyes, at, to, "reaches the pod at")), (), ())


def _out_of_the_cluster(eyes: Eyes, intent: Intent) -> Walk:
    """As far as it can be seen."""
    source, to = intent.source, intent.address
    decision = ways.towards(eyes, source.node, to, source.address if source.pod else None, "")
    rest = ways.beyond(source.node, f"the way on to {to}", "nothing beyond this node is ours to see")
    return Walk((*_leave(eyes, intent, forwarded=True), decision, rest), (), ())


def _by_a_node(eyes: Eyes, intent: Intent, at: str, *, translated: bool) -> Walk:
    """To a node, whose proxy, kernel or own process takes it from there."""
    source, to = intent.source, intent.address
    out = _leave(eyes, intent, forwarded=at != source.node)
    if source.node and at != source.node:
        out.append(ways.towards(eyes, source.node, to, source.address if source.pod else None, at))
    balance = balancers.translated if translated else balancers.accepted
    out += balance(eyes, intent, at)
    branches = (_branch(eyes, intent, choice, at, translated=translated) for choice in intent.choices)
    return Walk(tuple(out), tuple(branches), tuple(ways.arrive(eyes, intent, Place(to, at))), translated)


def _leave(eyes: Eyes, intent: Intent, *, forwarded: bool) -> list[Hop]:
    """Out of the source's pod; ``forwarded``: and past its node."""
    source = intent.source
    if not source.pod:
        return []
    hops = ways.leave_pod(eyes, source.node, source.address, intent.address)
    if not forwarded:
        return hops
    straight = intent.choices[0] if intent.choices and not intent.balancer else None
    return [*hops, ways.passes(eyes, intent, straight)]


def _branch(eyes: Eyes, intent: Intent, choice: Choice, start: str, *, translated: bool) -> Branch:
    """From the node ``start`` to one endpoint and back to ``start``."""
    out = ways.to_endpoint(eyes, intent, choice, start, translated=translated)
    out += ways.into_endpoint(eyes, choice)
    back = ways.from_endpoint(eyes, intent, choice, start, translated=translated)
    return Branch(choice, (*out, *at_endpoint(eyes, choice, intent.protocol)), tuple(back))
