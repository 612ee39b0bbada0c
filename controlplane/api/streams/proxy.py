"""`kubectl logs`, `exec`, `attach`, `port-forward`: from the client's request to the agent's answer.

A log is a plain answer passed on. The others are WebSockets of which every message is passed on as it is, whatever
protocol it belongs to; the older upgrade, SPDY without a WebSocket, is refused by name (kubectl 1.30 and later need it
for nothing; 1.30 itself needs it for port-forward).
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress

import aiohttp
from aiohttp import WSCloseCode, WSMsgType, web
from multidict import MultiMapping

from controlplane.api.reading.selection import flag
from controlplane.api.streams.agents import MAX_MESSAGE, Agents, refusal, unreachable
from controlplane.api.streams.containers import container_of
from netplane.kube.errors import StatusError, bad_request
from netplane.kube.objects import Object, name_of, namespace_of

SUBRESOURCES = ("log", "exec", "attach", "portforward")
PING_SECONDS = 5.0  # as often as kubectl does
CLOSE_SECONDS = 5.0
_LOG = ("follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes")
_STDIO = ("stdin", "stdout", "stderr")
_FLAGS = frozenset({"follow", "previous", "timestamps", *_STDIO, "tty"})

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class AgentProxy:
    """Answers the subresources of a pod that live on its node."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def answer(self, request: web.Request, pod: Object, subresource: str) -> web.StreamResponse:
        """One request, to its end. Raises StatusError until the answer's head is out."""
        query, name = request.query, f"{namespace_of(pod)}/{name_of(pod)}"
        match subresource:
            case "log":
                path, passed = f"/containerLogs/{name}/{_container(pod, query)}", _only(query, _LOG)
                check_log(query)
                return await self._log(request, pod, self._agents.url(pod) + path, passed)
            case "portforward":
                path, passed = f"/portForward/{name}", _only(query, ("ports", "port"))
            case _:
                check_streams(query, command=subresource == "exec")
                path = f"/{subresource}/{name}/{_container(pod, query)}"
                passed = _only(query, (*_STDIO, "tty", "command"))
        return await self._conversation(request, pod, self._agents.url(pod) + path, passed)

    async def _log(
        self, request: web.Request, pod: Object, url: str, query: Sequence[tuple[str, str]]
    ) -> web.StreamResponse:
        try:
            async with self._agents.session.get(url, params=query) as answer:
                if answer.status != 200:
                    raise refusal(answer.status, await answer.text())
                return await _pass_on(request, answer)
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise unreachable(pod, error) from None

    async def _conversation(
        self, request: web.Request, pod: Object, url: str, query: Sequence[tuple[str, str]]
    ) -> web.StreamResponse:
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        protocols = [word.strip() for word in offered.split(",") if word.strip()]
        async with AsyncExitStack() as stack:
            try:
                if request.method != "GET" or request.headers.get("Upgrade", "").lower() != "websocket":
                    raise await self._refused(url, query, request.headers.get("Upgrade", ""))
                try:
                    agent = await stack.enter_async_context(self._agents.conversation(url, query, protocols))
                except aiohttp.WSServerHandshakeError:
                    raise await self._refused(url, query, "websocket") from None
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                raise unreachable(pod, error) from None
            chosen = [agent.protocol] if agent.protocol else []
            client = web.WebSocketResponse(protocols=chosen, compress=False, max_msg_size=MAX_MESSAGE)
            await client.prepare(request)
            await tunnel(client, agent)
        return client

    async def _refused(self, url: str, query: Sequence[tuple[str, str]], upgrade: str) -> StatusError:
        """Why there will be no conversation: the agent says it to a plain request, in words."""
        async with self._agents.session.get(url, params=query) as answer:
            text = await answer.text()
        if text.startswith("Upgrade request required") and upgrade.lower().startswith("spdy"):
            text = (
                f"{upgrade} is not served: a client must upgrade to a WebSocket, as kubectl 1.31 and later do"
            )
        return refusal(answer.status, text)


def check_log(query: Mapping[str, str]) -> None:
    """`PodLogOptions` as kube-apiserver validates them. Raises StatusError 400 naming the field."""
    for name, least in (("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)):
        text = query.get(name)
        if text and not (text.isascii() and text.isdigit() and int(text) >= least):
            raise bad_request(f"{name}: Invalid value: {text}: must be greater than or equal to {least}")
    if query.get("sinceSeconds") and query.get("sinceTime"):
        raise bad_request(
            "sinceSeconds: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
        )


def check_streams(query: MultiMapping[str], *, command: bool) -> None:
    """`PodExecOptions` and `PodAttachOptions`. Raises StatusError 400."""
    if not any(flag(query, name) for name in _STDIO):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    if command and not query.getall("command", []):
        raise bad_request("you must specify command")


def _container(pod: Object, query: Mapping[str, str]) -> str:
    return container_of(pod, query.get("container", ""))


def _only(query: MultiMapping[str], names: Sequence[str]) -> list[tuple[str, str]]:
    """The parameters that the agent knows, each as often and in the order as it came; booleans in one spelling."""
    return [
        (name, str(flag(query, name)).lower() if name in _FLAGS else value)
        for name in names
        for value in query.getall(name, [])
    ]


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """The agent's bytes as they come. Once the head is out, a failure can only be a cut connection."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except (aiohttp.ClientError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()
    return response


async def tunnel(client: web.WebSocketResponse, agent: aiohttp.ClientWebSocketResponse) -> None:
    """Messages both ways until one side closes; then the other is closed with the same code.

    One message is held at a time in each direction, so who does not read is not read for.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            ways = [tasks.create_task(_pass(client, agent)), tasks.create_task(_pass(agent, client))]
            pings = [tasks.create_task(_ping(side)) for side in (client, agent)]
            await asyncio.wait(ways)
            for task in pings:
                task.cancel()
    except* (aiohttp.ClientError, ConnectionError):
        pass  # one side is gone: the client is told here, the agent cut off by our caller
    await _close(client, WSCloseCode.GOING_AWAY)


async def _pass(source: Socket, target: Socket) -> None:
    while True:
        message = await source.receive()
        if message.type is WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await target.send_str(message.data)
        else:
            # Closing ends the other way's wait, too. (A cancelled wait would leave the connection cut, not closed.)
            await _close(target, _code(source))
            return


async def _close(side: Socket, code: int) -> None:
    """A side that reads nothing cannot be told: after a while it is cut off."""
    with suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await side.close(code=code)


async def _ping(side: Socket) -> None:
    """While a side is not read because the other does not, only writing tells that it is gone."""
    while True:
        await asyncio.sleep(PING_SECONDS)
        await side.ping()


def _code(other: Socket) -> int:
    """The code to close one side with: the other's own, unless that one was never sent (RFC 6455, 7.4.1)."""
    code = other.close_code
    if code is None or code in (1004, 1005, 1006, 1015):
        return WSCloseCode.GOING_AWAY
    return code
