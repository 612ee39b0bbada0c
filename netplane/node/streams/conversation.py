"""One exec or attach: messages of a WebSocket on one side, a process's descriptors on the other."""

import asyncio
from contextlib import suppress

from aiohttp import ClientConnectionResetError, WSCloseCode, WSMsgType, web

from netplane.errors import PeerError
from netplane.node.runtimes import Process
from netplane.node.streams import channels
from netplane.node.streams.descriptors import Source, write

PING_SECONDS = 5.0  # as often as kubectl does


class ClientGone(Exception):
    """The client has closed the conversation, or its connection is cut."""


class Malformed(Exception):
    """The client does not speak the protocol."""


async def converse(ws: web.WebSocketResponse, process: Process, *, attached: bool) -> None:
    """Until the process ends or the client goes; the caller then ends the process.

    Raises (in a group) ClientGone, Malformed, PeerError when the process cannot be run.
    """
    sources = [(channels.STDOUT, Source(process.stdout))]
    if process.stderr is not None:
        sources.append((channels.STDERR, Source(process.stderr)))
    async with asyncio.TaskGroup() as tasks:
        listening = [tasks.create_task(_listen(ws, process)), tasks.create_task(keep_alive(ws))]
        pumps = [tasks.create_task(_pump(ws, channel, source)) for channel, source in sources]
        code = await process.ended()
        for _, source in sources:
            if not attached:
                source.finish()  # of an attached container all that it said comes, then an end
        await asyncio.wait(pumps)
        await ws.send_bytes(channels.success() if attached else channels.ended(code))
        for task in listening:
            task.cancel()


async def _pump(ws: web.WebSocketResponse, channel: int, source: Source) -> None:
    head = bytes([channel])
    while data := await source.read():
        try:
            await ws.send_bytes(head + data)
        except ClientConnectionResetError:
            raise ClientGone from None


async def _listen(ws: web.WebSocketResponse, process: Process) -> None:
    """The client's messages, in their order: what stdin has no room for holds up what comes after it."""
    while True:
        received = await ws.receive()
        if received.type is WSMsgType.TEXT:
            received_bytes = received.data.encode()  # some clients send channels as text
        elif received.type is WSMsgType.BINARY:
            received_bytes = received.data
        else:
            raise ClientGone
        try:
            message = channels.read(received_bytes, ws.ws_protocol or channels.V4)
        except ValueError as error:
            raise Malformed(str(error)) from None
        match message:
            case channels.Input(data) if process.stdin is not None:
                if not await write(process.stdin, data):
                    process.close_stdin()
            case channels.EndOfInput():
                process.close_stdin()
            case channels.Resize(columns, rows):
                process.resize(columns, rows)


async def keep_alive(ws: web.WebSocketResponse) -> None:
    """Write now and then: while we do not read, only that tells that the other side is gone."""
    while True:
        await asyncio.sleep(PING_SECONDS)
        try:
            await ws.ping()
        except ClientConnectionResetError:
            raise ClientGone from None


async def close(ws: web.WebSocketResponse, problem: BaseException | None = None) -> None:
    """Say what went wrong, if anything did, and close."""
    with suppress(ClientConnectionResetError):
        match problem:
            case Malformed():
                await ws.close(code=WSCloseCode.PROTOCOL_ERROR, message=str(problem).encode()[:120])
            case PeerError():
                await ws.send_bytes(channels.failed(str(problem)))
                await ws.close()
            case _:
                await ws.close()


def cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """What ended a conversation: a client that went explains all else."""
    for kind in (ClientGone, Malformed, PeerError):
        if (found := group.subgroup(kind)) is not None:
            problem: BaseException = found
            while isinstance(problem, BaseExceptionGroup):
                problem = problem.exceptions[0]
            return problem
    return None
