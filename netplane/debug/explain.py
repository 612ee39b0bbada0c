"""Why a connection goes where it goes: one line a hop, each from the kernel's own state.

Entry for the command line and the lab:

    explanation = await explain.run(
        "default/web-0", "svc/hello:80",
        client=client,                 # netplane.kube.client.Client, opened
        spawn=places.only_here("n1"),  # or the lab's way to run argv on a node: places.Spawn
        probe=False,                   # True: also sends one request and shows its packets (SOURCE: a pod)
    )
    explanation.render()      -> str, the table for people
    explanation.as_json()     -> dict, for -o json | yaml
    explanation.exit_code     -> 0 works, 1 broken, 2 undetermined

SOURCE: ns/pod, node/name, address. TARGET: svc/name:port, svc/name.ns:port, ns/pod:port, node/name:port,
address[:port], each port perhaps with /udp; a Service's DNS name; an http URL of one of those. Raises NetplaneError
when SOURCE or TARGET name nothing, or the API does not answer.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netplane.config import CLUSTER_CIDRS, SERVICE_CIDRS, IPNetwork
from netplane.debug import places
from netplane.debug.eyes import Eyes
from netplane.debug.facts import Facts, Request, decode_facts, encode
from netplane.debug.hops import Branch, Hop, State, Walk
from netplane.debug.intent import Intent, resolve
from netplane.debug.verdict import Outcome, Verdict, judge
from netplane.debug.walk import requests, walk
from netplane.debug.world import world_of
from netplane.errors import NetplaneError
from netplane.kube.client import Client

if TYPE_CHECKING:
    from netplane.debug.capture import View

LOOK_SECONDS = 20.0
"""How long a node may take to answer; Python's start is most of it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The intent, the walk with its evidence, the verdict, and with ``probe`` a request's packets."""

    intent: Intent
    walk: Walk
    verdict: Verdict
    view: "View | None" = None

    @property
    def exit_code(self) -> int:
        """0 works, 1 broken, 2 undetermined: the packets' word counts where there are any."""
        if self.view is not None and self.verdict.outcome is not Outcome.BROKEN:
            return self.view.exit_code
        return self.verdict.outcome.value

    def render(self) -> str:
        """The table for people."""
        lines = [
            f"INTENT    {self.intent.source} -> {self.intent.title}",
            *_endpoint_lines(self.intent, self.walk),
        ]
        numbered = 0
        for hop in self.walk.out:
            numbered += 1
            lines.append(_hop_line(f"HOP {numbered}", hop))
        for letter, branch in zip(_letters(len(self.walk.branches)), self.walk.branches, strict=True):
            lines += _branch_lines(letter, branch, numbered)
        lines += [_hop_line("RETURN", hop) for hop in self.walk.back]
        if self.view is not None:
            lines += ["PROBE", *(f"  {line}" for line in self.view.render().splitlines())]
        return "\n".join([*lines, *self._verdict_lines()]) + "\n"

    def _verdict_lines(self) -> list[str]:
        verdict = self.verdict
        word = verdict.outcome.name
        if self.view is not None and self.exit_code != verdict.outcome.value:
            word = f"{Outcome(self.exit_code).name} (the probe; the walk says {verdict.outcome.name})"
        lines = [f"VERDICT   {word}" + (f": {verdict.cause}" if verdict.cause else "")]
        lines += [f"          SUSPECT {suspect}" for suspect in verdict.suspects]
        return [*lines, f"          next: {verdict.next}"] if verdict.next else lines

    def as_json(self) -> dict[str, Any]:
        """Plain values with the same content."""
        intent = self.intent
        return {
            "intent": {
                "source": str(intent.source),
                "target": intent.title,
                "address": str(intent.address),
                "port": intent.port,
                "protocol": intent.protocol,
                "endpoints": [
                    {
                        "address": str(c.place.address),
                        "port": c.port,
                        "pod": c.place.pod,
                        "node": c.place.node,
                    }
                    for c in intent.choices
                ],
                "excluded": list(intent.excluded),
                "refusal": intent.refusal,
            },
            "hops": [_hop_json(hop) for hop in self.walk.out],
            "branches": [
                {
                    "endpoint": f"{b.choice.place.address}:{b.choice.port}",
                    "hops": [_hop_json(hop) for hop in b.out],
                    "return": [_hop_json(hop) for hop in b.back],
                }
                for b in self.walk.branches
            ],
            "return": [_hop_json(hop) for hop in self.walk.back],
            "probe": self.view.as_json() if self.view is not None else None,
            "verdict": {
                "outcome": Outcome(self.exit_code).name,
                "cause": self.verdict.cause,
                "suspects": list(self.verdict.suspects),
                "next": self.verdict.next,
            },
        }


async def run(
    source: str,
    target: str,
    *,
    client: Client,
    spawn: places.Spawn,
    probe: bool = False,
    lab: str = "",
    cluster_cidrs: tuple[IPNetwork, ...] = CLUSTER_CIDRS,
    service_cidrs: tuple[IPNetwork, ...] = SERVICE_CIDRS,
) -> Explanation:
    """Explain one connection; ``lab``: whose nodes these are, for what to run next. Raises as the module says."""
    world = await world_of(client, cluster_cidrs, service_cidrs)
    intent = resolve(source, target, world)
    found = await look(requests(intent), spawn)
    seen = walk(intent, Eyes(found))
    view = None
    if probe:
        from netplane.debug import capture  # scapy takes a second to import: only a probe pays

        view = await capture.view_of(intent, spawn=spawn)
    return Explanation(intent, seen, judge(intent, seen, lab), view)


async def look(wanted: dict[str, Request], spawn: places.Spawn) -> dict[str, Facts]:
    """Ask all nodes at once; a node that cannot be asked, or gives no sense, is missing from the answer."""

    async def one(node: str, request: Request) -> Facts | None:
        argv = places.module("netplane.debug.collect", encode(request).decode(), node)
        process = await spawn(node, argv)
        if process is None:
            return None
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                output, _ = await process.communicate()
            return decode_facts(output, node) if process.returncode == 0 else None
        except (TimeoutError, NetplaneError):
            return None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    answers = await asyncio.gather(*(one(node, request) for node, request in wanted.items()))
    return {facts.node: facts for facts in answers if facts is not None}


def _letters(count: int) -> list[str]:
    return [chr(ord("a") + i) if i < 26 else str(i) for i in range(count)]


def _endpoint_lines(intent: Intent, walk: Walk) -> list[str]:
    if not intent.balancer:
        return []
    described = [
        f"{c.place.address}:{c.port} ({c.place.pod or c.place.node or 'no pod or node'})"
        for c in intent.choices
    ]
    lines = [
        f"          endpoints {len(described)}: {', '.join([*described, *intent.excluded]) or 'none'}  [API]"
    ]
    if described:
        proxy = f"the {'kernel' if walk.translated else 'proxy'} on {intent.balancer}"
        several = f"{proxy} takes them in turn, and tries another when one does not answer"
        if walk.translated:
            way = "in turn" if walk.told else "at random"
            several = f"{proxy} takes one {way} for each connection, and tries no other"
        lines.append(f"          {several if len(described) > 1 else f'{proxy} has this one only'}  [API]")
    return lines


def _branch_lines(letter: str, branch: Branch, numbered: int) -> list[str]:
    choice = branch.choice
    seen = "client address kept" if choice.kept else "the node's address"
    lines = [f"ENDPOINT {letter} {choice.place} port {choice.port}, sees {choice.seen_as} ({seen})"]
    lines += [_hop_line(f"HOP {numbered + i}{letter}", hop) for i, hop in enumerate(branch.out, 1)]
    return [*lines, *(_hop_line(f"RETURN {letter}", hop) for hop in branch.back)]


def _hop_line(label: str, hop: Hop) -> str:
    mark = {State.OK: " ", State.BROKEN: "!", State.UNSEEN: "?"}[hop.state]
    return f"{label:<9}{mark}{hop.node:<4} {hop.text}  [{hop.source}]"


def _hop_json(hop: Hop) -> dict[str, str]:
    return {"node": hop.node, "state": hop.state.value, "text": hop.text, "source": hop.source}
