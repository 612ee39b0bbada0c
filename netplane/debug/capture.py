"""One request, seen as packets: scapy builds and dissects them, the kernel only carries them.

Entry for the command line and the demo (import it late: scapy takes a second):

    view = await capture.request_view(
        "default/web-0", "svc/hello:80",
        client=client,                 # netplane.kube.client.Client, opened
        spawn=spawn,                   # places.Spawn: runs argv on a node
        path="/", seconds=10.0,        # how long the request may take
    )
    view.render()    -> str: who talked to whom, flags, HTTP status, which pod answered
    view.as_json()   -> dict
    view.exit_code   -> 0 answered, 1 refused, reset or silent, 2 undetermined

SOURCE must be a pod: the packets are built inside its namespace. Raises NetplaneError as ``explain.run`` does.
"""

import asyncio
import secrets
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from netplane.config import CLUSTER_CIDRS, SERVICE_CIDRS, IPNetwork, parse
from netplane.debug import packets, places
from netplane.debug.exchange import Outcome
from netplane.debug.intent import Intent, resolve
from netplane.debug.packets import Captured, Seen
from netplane.debug.probe import Question, Reply
from netplane.debug.sniff import Copy
from netplane.debug.world import world_of
from netplane.errors import ConfigError, NetplaneError, PeerError
from netplane.kube.client import Client
from proxy.model import Protocol, joined

START_SECONDS = 20.0
"""How long a node may take to start looking; Python's and scapy's start are most of it."""


@dataclass(frozen=True, slots=True)
class View:
    """A request's packets at the client's and at the endpoint's link, and how it ended.

    ``unseen``: nodes that could not be looked into; ``names``: what each address is.
    """

    intent: Intent
    reply: Reply
    rows: tuple[Seen, ...]
    names: Mapping[str, str]
    unseen: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 answered, 1 refused, reset or silent, 2 not sent at all."""
        if self.reply.outcome == Outcome.ANSWERED:
            return 0
        return 1 if self.reply.outcome else 2

    def render(self) -> str:
        """For people: each side's packets, then the answer."""
        lines: list[str] = []
        for side in ("client", "endpoint"):
            rows = [row for row in self.rows if row.side == side]
            seen = packets.render(rows, self.names) or ["not observed"]
            lines += [f"{side.upper():<9} {seen[0]}", *seen[1:]]
            if rows and all(row.inbound for row in rows):  # the programs at pods' links handed it over
                lines.append(
                    "          what it received came past the host's stack, and is not seen at this link"
                )
        lines += [f"not observed: node {node} cannot be looked into from here" for node in self.unseen]
        return "\n".join([*lines, self._answer()]) + "\n"

    def _answer(self) -> str:
        reply = self.reply
        if not reply.outcome:
            return f"NOT SENT  {reply.error}"
        if reply.outcome != Outcome.ANSWERED:
            return f"ANSWER    none: {reply.outcome}"
        said = self.said
        who = f" from pod {said['namespace']}/{said['pod']} on {said['node']}" if "pod" in said else ""
        saw = f", which saw client {said['client']}" if "client" in said else ""
        return f"ANSWER    HTTP {reply.status}{who}{saw}"

    @property
    def said(self) -> dict[str, Any]:
        """The answer's JSON, empty where it is none (only `netplane/echo` says who it is)."""
        try:
            body = orjson.loads(self.reply.body)
        except orjson.JSONDecodeError:
            return {}
        known: dict[str, Any] = {"namespace": "", "node": ""}
        return known | body if isinstance(body, dict) else {}

    def as_json(self) -> dict[str, Any]:
        """Plain values with the same content."""
        return {
            "outcome": self.reply.outcome,
            "status": self.reply.status,
            "answer": self.said,
            "error": self.reply.error,
            "packets": [asdict(row) for row in self.rows],
            "unseen": list(self.unseen),
        }


async def request_view(
    source: str,
    target: str,
    *,
    client: Client,
    spawn: places.Spawn,
    path: str = "/",
    seconds: float = 10.0,
    cluster_cidrs: tuple[IPNetwork, ...] = CLUSTER_CIDRS,
    service_cidrs: tuple[IPNetwork, ...] = SERVICE_CIDRS,
) -> View:
    """Send one request and look at its packets on both sides."""
    intent = resolve(source, target, await world_of(client, cluster_cidrs, service_cidrs))
    return await view_of(intent, spawn=spawn, path=path, seconds=seconds)


async def view_of(intent: Intent, *, spawn: places.Spawn, path: str = "/", seconds: float = 10.0) -> View:
    """The same for a connection that has been resolved. Raises ConfigError where none can be sent."""
    source = intent.source
    if not source.pod or not intent.port:
        raise ConfigError(
            f"cannot send packets from {source}: it is not a pod, or TARGET has no port",
            "Use ns/pod as SOURCE and a TARGET with a port",
        )
    if intent.protocol is not Protocol.TCP:
        cause = f"the probe is a TCP connection, and this is {intent.protocol}"
        raise ConfigError(f"cannot send packets to {joined(intent.address, intent.port)}: {cause}")
    cookie = f"netplane-probe={secrets.token_hex(8)}"
    question = Question(
        pod=str(source.address),
        address=str(intent.address),
        port=intent.port,
        path=path + ("&" if "?" in path else "?") + cookie,
        host=str(intent.address),
        seconds=seconds,
    )
    async with _sniffing(_links(intent), spawn) as look:
        reply = await _ask(question, source.node, spawn)
    rows = packets.follow(look.captured, (question.pod, reply.port), cookie)
    return View(intent, reply, tuple(rows), _names(intent), tuple(look.unseen))


def _links(intent: Intent) -> dict[str, list[str]]:
    """Node -> the pods' addresses whose links are to be watched there."""
    found: dict[str, list[str]] = {intent.source.node: [str(intent.source.address)]}
    for choice in intent.choices:
        if choice.place.pod:
            found.setdefault(choice.place.node, []).append(str(choice.place.address))
    return found


def _names(intent: Intent) -> dict[str, str]:
    names = {str(choice.place.address): choice.place.pod or choice.place.node for choice in intent.choices}
    names |= {str(choice.seen_as): f"node {intent.balancer}" for choice in intent.choices if not choice.kept}
    names |= {str(intent.source.address): intent.source.pod}
    if intent.balancer:
        names[str(intent.address)] = intent.title.split()[1]
    return names


async def _ask(question: Question, node: str, spawn: places.Spawn) -> Reply:
    argv = places.module("netplane.debug.probe", orjson.dumps(asdict(question)).decode())
    process = await spawn(node, argv)
    if process is None:
        return Reply("", error=f"node {node} cannot be looked into from here")
    try:
        async with asyncio.timeout(START_SECONDS + question.seconds):
            output, _ = await process.communicate()
        return parse(Reply, orjson.loads(output), f"reply of {node}")
    except (TimeoutError, orjson.JSONDecodeError, NetplaneError) as error:
        return Reply("", error=f"the probe on {node} gave no reply: {error or 'too slow'}")
    finally:
        await _end(process)


@dataclass(slots=True)
class _Look:
    """What the watching nodes saw, complete after the context has closed."""

    captured: list[Captured] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)


@asynccontextmanager
async def _sniffing(links: dict[str, list[str]], spawn: places.Spawn) -> AsyncIterator[_Look]:
    """Packets are copied on each node from the beginning of the context to its end."""
    look = _Look()
    running: dict[str, Process] = {}
    try:
        started = await asyncio.gather(*(_start(node, addresses, spawn) for node, addresses in links.items()))
        for node, process in zip(links, started, strict=True):
            if process is None:
                look.unseen.append(node)
            else:
                running[node] = process
        yield look
        outputs = await asyncio.gather(*map(_finish, running.values()))
        for node, lines in zip(running, outputs, strict=True):
            look.captured += _captured(node, lines or ())
            look.unseen += [node] if lines is None else []
    finally:
        for process in running.values():
            await _end(process)


async def _start(node: str, addresses: Iterable[str], spawn: places.Spawn) -> Process | None:
    process = await spawn(node, places.module("netplane.debug.sniff", *addresses))
    if process is None or process.stdout is None:
        return None
    try:
        async with asyncio.timeout(START_SECONDS):
            if await process.stdout.readline() == b"ready\n":
                return process
    except TimeoutError:
        pass
    await _end(process)
    return None


async def _finish(process: Process) -> list[bytes] | None:
    """What a node saw, by ending its standard input; None where it does not say."""
    try:
        async with asyncio.timeout(START_SECONDS):
            output, _ = await process.communicate(b"")
    except TimeoutError:
        return None
    return output.splitlines() if process.returncode == 0 else None


def _captured(node: str, lines: Iterable[bytes]) -> list[Captured]:
    try:
        copies = [parse(Copy, orjson.loads(line), f"packets of {node}") for line in lines]
    except orjson.JSONDecodeError as error:
        raise PeerError(f"cannot read the packets of {node}: {error}") from None
    return [
        Captured(node, copy.device, copy.inbound, copy.time, bytes.fromhex(copy.packet)) for copy in copies
    ]


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
