"""Port-forwarding: many TCP connections into one pod over one WebSocket, in kubectl's way and in Python clients'.

kubectl (1.31 and later) sends SPDY frames: a pair of streams for each connection, one for data, one for an error's
text. Python clients name the ports in the query and get two numbered channels for each.
Source: KEP-4006; `client-go/tools/portforward`; kubelet's `pkg/kubelet/cri/streaming/portforward`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import ClientConnectionResetError, WSMsgType, web

from netplane.errors import PeerError
from netplane.node.streams import spdy
from netplane.node.streams.conversation import ClientGone, Malformed, keep_alive
from netplane.node.streams.pod_connection import PodConnection, connect

SPDY = "SPDY/3.1+portforward.k8s.io"
MAX_STREAMS = 2000  # of one client; two for each connection
MAX_PORTS = 127  # two channels each, numbered by one byte


async def _send(ws: web.WebSocketResponse, message: bytes) -> None:
    try:
        await ws.send_bytes(message)
    except ClientConnectionResetError:
        raise ClientGone from None


async def _receive(ws: web.WebSocketResponse) -> bytes:
    received = await ws.receive()
    if received.type is WSMsgType.BINARY:
        return bytes(received.data)
    if received.type is WSMsgType.TEXT:
        return str(received.data).encode()
    raise ClientGone


@dataclass(slots=True)
class Pair:
    """The two streams of one connection, by the request that they are for."""

    port: int
    streams: dict[str, int] = field(default_factory=dict)  # "data", "error" → stream
    connection: PodConnection | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # connected, or not to be


class SpdyForward:
    """One client's session of SPDY frames."""

    def __init__(self, ws: web.WebSocketResponse, netns: str) -> None:
        self._ws, self._netns = ws, netns
        self._session = spdy.Session()
        self._requests: dict[str, Pair] = {}
        self._streams: dict[int, Pair] = {}

    async def run(self) -> None:
        """Until the client goes. Raises (in a group) ClientGone, Malformed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(keep_alive(self._ws))
                while True:
                    try:
                        for event in self._session.receive(await _receive(self._ws)):
                            await self._take(event, tasks)
                    except spdy.SpdyError as error:
                        raise Malformed(str(error)) from None
        finally:
            for pair in self._requests.values():
                if pair.connection is not None:
                    pair.connection.abort()

    async def _take(self, event: spdy.Event, tasks: asyncio.TaskGroup) -> None:
        match event:
            case spdy.Opened():
                await self._open(event, tasks)
            case spdy.Data(stream, data, finished):
                pair = self._streams.get(stream)
                if pair is not None and pair.streams.get("data") == stream:
                    await self._pass_in(pair, data, finished=finished)
            case spdy.Reset(stream):
                if (pair := self._streams.get(stream)) is not None:
                    self._forget(pair)
            case spdy.Pinged(number):
                await _send(self._ws, spdy.pong(number))

    async def _open(self, opened: spdy.Opened, tasks: asyncio.TaskGroup) -> None:
        headers, stream = opened.headers, opened.stream
        kind, request, port = (headers.get(key, "") for key in ("streamtype", "requestid", "port"))
        pair = self._requests.get(request) or Pair(int(port) if port.isdigit() else 0)
        if kind not in ("data", "error") or not request or kind in pair.streams or not 0 < pair.port < 65536:
            await _send(self._ws, spdy.reset(stream, spdy.PROTOCOL_ERROR))
            return
        if len(self._streams) >= MAX_STREAMS:
            await _send(self._ws, spdy.reset(stream, spdy.REFUSED_STREAM))
            return
        pair.streams[kind] = stream
        self._requests[request] = self._streams[stream] = pair
        await _send(self._ws, self._session.reply(stream))
        if len(pair.streams) == 2:
            tasks.create_task(self._connect(request, pair))

    async def _pass_in(self, pair: Pair, data: bytes, *, finished: bool) -> None:
        """To the pod. One that does not read holds up the session, as one slow connection of a tunnel does."""
        await pair.settled.wait()
        if pair.connection is None:
            return
        if data:
            await pair.connection.write(data)
        if finished:
            pair.connection.finish()

    async def _connect(self, request: str, pair: Pair) -> None:
        """One connection from its begin to the pod's end of it."""
        data, error = pair.streams["data"], pair.streams["error"]
        problem = b""
        try:
            pair.connection = await connect(self._netns, pair.port)
        except PeerError as failure:
            problem = str(failure).encode()
        pair.settled.set()
        if self._requests.get(request) is not pair:  # given up meanwhile
            self._forget(pair)
            return
        if pair.connection is not None:
            while chunk := await pair.connection.read():
                await _send(self._ws, spdy.data(data, chunk))
        await _send(self._ws, spdy.data(data, b"", finished=True))
        await _send(self._ws, spdy.data(error, problem, finished=True))
        self._forget(pair)

    def _forget(self, pair: Pair) -> None:
        pair.settled.set()
        if pair.connection is not None:
            pair.connection.abort()
        for stream in pair.streams.values():
            self._streams.pop(stream, None)
        for request in [key for key, value in self._requests.items() if value is pair]:
            del self._requests[request]


async def forward_channels(ws: web.WebSocketResponse, netns: str, ports: Sequence[int]) -> None:
    """v4.channel.k8s.io: port i has channels 2i (data) and 2i+1 (an error's text), each begun with its number.

    Ends when all connections have. Raises (in a group) ClientGone.
    """
    connections: dict[int, PodConnection] = {}
    try:
        for index, port in enumerate(ports):
            for channel in (2 * index, 2 * index + 1):
                await _send(ws, bytes([channel]) + port.to_bytes(2, "little"))
        for index, port in enumerate(ports):
            try:
                connections[2 * index] = await connect(netns, port)
            except PeerError as failure:
                await _send(ws, bytes([2 * index + 1]) + str(failure).encode())
        async with asyncio.TaskGroup() as tasks:
            aside = [tasks.create_task(keep_alive(ws)), tasks.create_task(_pass_in(ws, connections))]
            pumps = [tasks.create_task(_pass_out(ws, channel, c)) for channel, c in connections.items()]
            if pumps:
                await asyncio.wait(pumps)
            for task in aside:
                task.cancel()
    finally:
        for connection in connections.values():
            connection.abort()


async def _pass_in(ws: web.WebSocketResponse, connections: dict[int, PodConnection]) -> None:
    while True:
        message = await _receive(ws)
        if message and (connection := connections.get(message[0])) is not None:
            await connection.write(message[1:])


async def _pass_out(ws: web.WebSocketResponse, channel: int, connection: PodConnection) -> None:
    while chunk := await connection.read():
        await _send(ws, bytes([channel]) + chunk)
