"""UDP: each client's datagrams go to one endpoint, and answers come back from where the client asked.

Why a flow at all, in a protocol without any: an endpoint must see one client as one source, and a client that
streams must not be spread over endpoints. Why it ends at once when its endpoint leaves: stale UDP flows that
lead to nobody are what users of kernel proxies suffer from longest; nothing here outlives its endpoint, its
frontend or its own silence.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Iterator
from select import EPOLLIN
from time import monotonic

from proxy.model import Endpoint
from proxy.userspace.dialing import Dialer
from proxy.userspace.listeners import Choice, Listener
from proxy.userspace.poller import Poller, Watched
from proxy.userspace.sources import Client

LARGEST = 65536  # bytes: no datagram is larger
BATCH = 64  # datagrams taken from one socket before the others get their turn
KEPT = 1472  # bytes: a question up to this size is asked again where an endpoint refuses it
SWEEP = 2.0  # seconds between looks for flows that have gone silent
# Seconds of silence that end a flow; conntrack's: one question and its answer, and a stream of either way.
IDLE_QUERY, IDLE_STREAM = 30.0, 120.0
STREAM_AFTER = (
    2.0  # a flow that has been answered and is this old is a stream (nf_conntrack_udp_timeout_stream)
)
IP_PKTINFO = 8  # ip(7)
PKTINFO_4, PKTINFO_6 = struct.Struct("=I4s4s"), struct.Struct("=16sI")  # struct in_pktinfo, in6_pktinfo

# A client's address and port, and the address it wrote to (b"" where the frontend has one only).
Key = tuple[str, int, bytes]


class Exchange(Watched):
    """One client's datagrams to one endpoint, behind a socket that is connected to it."""

    __slots__ = (
        "answered",
        "began",
        "box",
        "choice",
        "client",
        "endpoint",
        "first",
        "key",
        "peer",
        "question",
        "seen",
        "sock",
        "traffic",
        "tried",
    )

    def __init__(
        self, box: "Mailbox", key: Key, peer: tuple[object, ...], client: Client, now: float
    ) -> None:
        self.box = box
        self.key = key
        self.peer = peer
        self.client = client
        self.choice: Choice = box.listener.inside if client.inside else box.listener.outside
        self.traffic = box.listener.traffic
        self.first = self.tried = 0
        self.endpoint: Endpoint | None = None
        self.sock: socket.socket
        self.fd = self.mask = -1
        self.question = b""
        self.answered = False
        self.began = self.seen = now

    def ready(self, events: int) -> None:
        """The endpoint has answered, or refused."""
        self.box.owner.answer(self)

    def broken(self) -> None:
        """A bug of ours met this flow: it ends, the others go on."""
        self.box.owner.end(self)


class Mailbox(Watched):
    """A UDP frontend's socket and the flows that came by it."""

    __slots__ = ("exchanges", "listener", "owner", "wildcard")

    def __init__(self, owner: "Datagrams", listener: Listener) -> None:
        self.owner = owner
        self.listener = listener
        self.fd = listener.fd
        self.mask = -1
        self.wildcard = listener.frontend.address.is_unspecified
        self.exchanges: dict[Key, Exchange] = {}

    def ready(self, events: int) -> None:
        """Clients have written."""
        self.owner.receive(self)

    def broken(self) -> None:
        """A bug of ours met one datagram: the next one is served all the same."""


class Datagrams:
    """All UDP flows of one process. ``most``: how many may be open; those silent longest end first."""

    def __init__(
        self,
        poller: Poller,
        dialer: Dialer,
        *,
        most: int,
        idle: tuple[float, float] = (IDLE_QUERY, IDLE_STREAM),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._poller = poller
        self._dialer = dialer
        self._most = most
        self._idle = idle
        self._boxes: dict[int, Mailbox] = {}
        self._buffer = bytearray(LARGEST)
        self._view = memoryview(self._buffer)
        self._sweeper: asyncio.TimerHandle | None = None
        self.active = 0

    def exchanges(self) -> Iterator[Exchange]:
        """All flows."""
        for box in self._boxes.values():
            yield from list(box.exchanges.values())

    def add(self, listener: Listener) -> None:
        """Receive by this frontend."""
        box = self._boxes[listener.fd] = Mailbox(self, listener)
        if box.wildcard:
            _ask_destination(listener.sock)
        self._poller.add(box, EPOLLIN)

    def remove(self, listener: Listener) -> None:
        """The frontend is gone, and so are its flows. The socket stays the caller's."""
        box = self._boxes.pop(listener.fd, None)
        if box is None:
            return
        self._poller.forget(box)
        for exchange in list(box.exchanges.values()):
            self.end(exchange)
        self._poller.flush()

    def repoint(self, listener: Listener) -> None:
        """The frontend's endpoints have changed: flows to those that have left end now, the others stay."""
        box = self._boxes[listener.fd]
        there = {
            id(choice): {(endpoint.address, endpoint.port) for endpoint in choice.endpoints}
            for choice in (listener.inside, listener.outside)
        }
        for exchange in list(box.exchanges.values()):
            endpoint = exchange.endpoint
            if endpoint is None or (endpoint.address, endpoint.port) not in there[id(exchange.choice)]:
                self.end(exchange)
        self._poller.flush()

    def close(self) -> None:
        """End all flows."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for box in list(self._boxes.values()):
            self.remove(box.listener)

    # -- from clients ----------------------------------------------------------------------------------

    def receive(self, box: Mailbox) -> None:
        """Take what clients wrote, a bounded number at a time."""
        sock, now, arrived = box.listener.sock, monotonic(), b""
        for _ in range(BATCH):
            try:
                if box.wildcard:
                    size, notes, _, peer = sock.recvmsg_into([self._buffer], 64)
                    arrived = _destination(notes)
                else:
                    size, peer = sock.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error that an earlier answer met: that client is gone
            key = (peer[0], peer[1], arrived)
            exchange = box.exchanges.get(key) or self._begin(box, key, peer, now)
            if exchange is not None:
                self._forward(exchange, self._view[:size], now)

    def _begin(self, box: Mailbox, key: Key, peer: tuple[object, ...], now: float) -> Exchange | None:
        listener = box.listener
        client = self._dialer.client(key[0])
        exchange = Exchange(box, key, peer, client, now)
        if not listener.admits(client.address) or not exchange.choice.endpoints:
            admitted = listener.admits(client.address)
            listener.traffic.reject("no_endpoints" if admitted else "source_range")
            return None
        if self.active >= self._most:
            self._evict()
        exchange.first = listener.first(exchange.choice, key[0], now)
        if not self._dial(exchange, now):
            return None
        box.exchanges[key] = exchange
        exchange.traffic.connections += 1
        exchange.traffic.active += 1
        self.active += 1
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP, self._sweep)
        return exchange

    def _dial(self, exchange: Exchange, now: float) -> bool:
        """Connect to the next endpoint that the kernel takes; False where none is left."""
        listener, endpoints = exchange.box.listener, exchange.choice.endpoints
        while exchange.tried < len(endpoints):
            if exchange.tried:
                exchange.traffic.retries += 1  # of the endpoint that failed
            place = exchange.choice.places[(exchange.first + exchange.tried) % len(endpoints)]
            endpoint = place.endpoint
            exchange.tried += 1
            exchange.traffic = place.traffic
            keep = listener.target.keep_outside_address
            try:
                sock = self._dialer.dial_datagram(exchange.client, endpoint, place.where, keep)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    exchange.traffic.reject("descriptors")
                    return False
                continue
            exchange.sock, exchange.fd, exchange.endpoint = sock, sock.fileno(), endpoint
            self._poller.add(exchange, EPOLLIN)
            if listener.target.affinity is not None:
                listener.affinity.remember(exchange.key[0], endpoint, now + listener.target.affinity)
            return True
        exchange.traffic.reject("unreachable" if endpoints else "no_endpoints")
        return False

    def _forward(self, exchange: Exchange, data: memoryview, now: float) -> None:
        exchange.seen = now
        exchange.traffic.received += len(data)
        if not exchange.answered and len(data) <= KEPT:
            exchange.question = bytes(data)
        try:
            exchange.sock.send(data)
        except ConnectionRefusedError:  # said of an earlier datagram; this one was not sent
            exchange.question = bytes(data)
            self._refused(exchange)
        except OSError:
            exchange.traffic.reject("datagram_lost")  # as a full queue of the network would

    # -- from endpoints --------------------------------------------------------------------------------

    def answer(self, exchange: Exchange) -> None:
        """Give the client what its endpoint says."""
        box, traffic = exchange.box, exchange.traffic
        sock = box.listener.sock
        for _ in range(BATCH):
            try:
                size = exchange.sock.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError:
                self._refused(exchange)
                return
            if not exchange.answered:
                exchange.answered, exchange.question = True, b""
            traffic.sent += size
            try:
                if box.wildcard:
                    sock.sendmsg([self._view[:size]], [_from(exchange.key[2])], 0, exchange.peer)
                else:
                    sock.sendto(self._view[:size], exchange.peer)
            except OSError:
                traffic.reject("datagram_lost")
        exchange.seen = monotonic()

    def _refused(self, exchange: Exchange) -> None:
        """The endpoint's port is closed: before it ever answered, another endpoint is asked the same."""
        self._part(exchange)
        exchange.traffic.active -= 1
        asked = not exchange.answered and self._dial(exchange, monotonic())
        exchange.traffic.active += 1  # perhaps where another endpoint is counted
        if not asked:
            self.end(exchange)
        elif exchange.question:
            try:
                exchange.sock.send(exchange.question)
            except OSError:
                exchange.traffic.reject("datagram_lost")

    # -- endings ---------------------------------------------------------------------------------------

    def end(self, exchange: Exchange) -> None:
        """Forget a flow; the client's next datagram begins a new one."""
        if exchange.box.exchanges.pop(exchange.key, None) is None:
            return
        self._part(exchange)
        exchange.traffic.active -= 1
        self.active -= 1

    def _part(self, exchange: Exchange) -> None:
        if exchange.fd >= 0:
            self._poller.bury(exchange)
            exchange.sock.detach()
            exchange.fd = exchange.mask = -1

    def _evict(self) -> None:
        """Make room: the tenth that has been silent longest ends."""
        silent = sorted(self.exchanges(), key=lambda exchange: exchange.seen)
        for exchange in silent[: max(1, self._most // 10)]:
            self.end(exchange)

    def _sweep(self) -> None:
        self._sweeper = None
        now = monotonic()
        query, stream = self._idle
        for exchange in self.exchanges():
            streams = exchange.answered and exchange.seen - exchange.began > STREAM_AFTER
            if now - exchange.seen > (stream if streams else query):
                self.end(exchange)
        self._poller.flush()
        if self.active:
            self._sweeper = self._loop.call_later(min(SWEEP, query), self._sweep)


def _ask_destination(sock: socket.socket) -> None:
    """An answer must come from the address that was asked; a wildcard socket has to be told which."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def _destination(notes: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, data in notes:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return PKTINFO_4.unpack(data)[2]  # type: ignore[no-any-return]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return PKTINFO_6.unpack(data)[0]  # type: ignore[no-any-return]
    return b""


def _from(address: bytes) -> tuple[int, int, bytes]:
    if len(address) == 4:
        return (socket.IPPROTO_IP, IP_PKTINFO, PKTINFO_4.pack(0, address, b"\0" * 4))
    return (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, PKTINFO_6.pack(address, 0))
