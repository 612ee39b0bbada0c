"""Opening a connection towards an endpoint, from the client's address or the node's.

Why a room: a client's own ports must stay untouched. A 4-tuple that the client uses itself could be taken
without any error, and would silently kill the client's connection; so ours come from a range that pods never
draw from. The range is walked here and not by the kernel: IP_LOCAL_PORT_RANGE (Linux 6.3) is ignored outside
of net.ipv4.ip_local_port_range, which is the whole host's and not ours to move.
"""

import errno
import logging
import random
import socket
from ipaddress import ip_address
from itertools import chain, islice, repeat
from socket import IPPROTO_IPV6, IPPROTO_TCP, SO_REUSEADDR, SOL_IP, SOL_SOCKET, TCP_QUICKACK

from proxy.model import Endpoint, NodeFacts
from proxy.userspace.sources import Client, classify, keeps_address

log = logging.getLogger(__name__)

IP_TRANSPARENT = 19  # ip(7)
IPV6_TRANSPARENT = 75  # linux/in6.h
IP_BIND_ADDRESS_NO_PORT = 24  # ip(7), Linux 4.2
FIRST_PORT, LAST_PORT = 10300, 29999  # pods draw from 30000-60999; below are netplane's own ports
PORTS = LAST_PORT - FIRST_PORT + 1
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
CONNECTING = (errno.EINPROGRESS, 0)
PORT_TRIES = 32
REMEMBERED_CLIENTS = 65536


Where = tuple[str, int]
# The kernel's own type: the class around it in the socket module costs a microsecond more a socket.
Socket = socket.SocketType


class Dialer:
    """Makes connecting sockets. ``hidden`` counts clients whose address found no free port to go with it."""

    def __init__(self, node: NodeFacts) -> None:
        # From anywhere on: the ports at the front are those that the process before us used last.
        begin = random.randrange(PORTS)
        # Ranges, because a list of them all would be a MiB in every worker.
        again = chain.from_iterable(repeat(range(FIRST_PORT, LAST_PORT + 1)))
        self._ports = chain(range(FIRST_PORT + begin, LAST_PORT + 1), again)
        self._clients: dict[str, Client] = {}
        self._packed: dict[bytes, Client] = {}
        self._keeps: dict[tuple[str, Where, bool, bool], bool] = {}
        self.node = node
        self.hidden = 0

    def set_node(self, node: NodeFacts) -> None:
        """Take new facts about the node; clients are then looked at anew."""
        if node != self.node:
            self.node = node
            self._clients.clear()
            self._packed.clear()
            self._keeps.clear()

    def client(self, text: str) -> Client:
        """Classify a client's address; remembered, since clients come again."""
        known = self._clients.get(text)
        if known is None:
            if len(self._clients) >= REMEMBERED_CLIENTS:
                self._clients.clear()
            known = self._clients[text] = classify(text, self.node)
        return known

    def client_at(self, packed: bytes) -> Client:
        """The same, by the address as the kernel has it."""
        known = self._packed.get(packed)
        if known is None:
            if len(self._packed) >= REMEMBERED_CLIENTS:
                self._packed.clear()
            known = self._packed[packed] = self.client(str(ip_address(packed)))
        return known

    def dial(
        self, client: Client, endpoint: Endpoint, where: Where, keep_outside: bool, *, early: bool = False
    ) -> int:
        """A non-blocking socket that is connecting, or connected. Raises OSError where the kernel says no.

        ``where`` is the endpoint's address in text. The socket is bare: ``settle`` it once it lives on.
        ``early``: data follows at once, and carries the handshake's last acknowledgement.
        """
        version = 6 if ":" in where[0] else 4
        if self._keeps_address(client, endpoint, where, keep_outside):
            source = client.text
            for port in islice(self._ports, PORT_TRIES):
                fd = _dial_as((source, port), where, version, early)
                if fd is not None:
                    return fd
            self._hide(client, endpoint)
        return _dial_from(self.node.address(version), where, version, early)

    def dial_datagram(
        self, client: Client, endpoint: Endpoint, where: Where, keep_outside: bool
    ) -> socket.socket:
        """A non-blocking UDP socket connected to the endpoint. Raises OSError where the kernel says no."""
        version = endpoint.address.version
        if self._keeps_address(client, endpoint, where, keep_outside):
            for port in islice(self._ports, PORT_TRIES):
                sock = _datagram_as((client.text, port), where, version)
                if sock is not None:
                    return sock
            self._hide(client, endpoint)
        sock = _datagram_socket(version)
        try:
            source = self.node.address(version)
            if source is not None and not endpoint.address.is_loopback:
                sock.bind((str(source), 0))
            sock.connect(where)
        except OSError:
            sock.close()
            raise
        return sock

    def _keeps_address(self, client: Client, endpoint: Endpoint, where: Where, keep_outside: bool) -> bool:
        """``keeps_address``, remembered: the answer costs more than the question's four values."""
        key = (client.text, where, endpoint.local, keep_outside)
        known = self._keeps.get(key)
        if known is None:
            if len(self._keeps) >= REMEMBERED_CLIENTS:
                self._keeps.clear()
            known = keeps_address(client, endpoint, keep_outside, self.node.cluster_cidrs)
            self._keeps[key] = known
        return known

    def _hide(self, client: Client, endpoint: Endpoint) -> None:
        self.hidden += 1
        if self.hidden & (self.hidden - 1) == 0:  # 1, 2, 4, ...: often enough to be seen
            log.warning(
                "no free port to reach %s as %s: it sees the node's address (%d times by now)",
                endpoint,
                client.address,
                self.hidden,
            )


def settle(fd: int) -> None:
    """What a connection needs that lives on: small messages go at once, and a peer's death is noticed.

    Not done at the start: the first message waits for nothing, and many connections have only that one.
    """
    sock = Socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:
        pass  # the connection is over already; reading it tells how
    finally:
        sock.detach()


def _be_transparent(sock: Socket, version: int) -> None:
    if version == 4:
        sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)


def _datagram_socket(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _datagram_as(source: tuple[str, int], where: tuple[str, int], version: int) -> socket.socket | None:
    """As somebody else, from this very port, which is not shared: UDP would not check the whole 4-tuple."""
    sock = _datagram_socket(version)
    try:
        _be_transparent(sock, version)
        sock.bind(source)
        sock.connect(where)
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            return None
        raise
    return sock


def _dial_as(source: Where, where: Where, version: int, early: bool) -> int | None:
    """Dial as somebody else, from this very port; None where the port or the 4-tuple is taken."""
    sock = Socket(FAMILIES[version], STREAM)
    try:
        if version == 4:
            sock.setsockopt(SOL_IP, IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        # Two connections to different endpoints may share a port: connect(2) checks the whole 4-tuple.
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.bind(source)
        return _connect(sock, where, early)
    except OSError as error:
        sock.close()
        if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            return None
        raise


def _dial_from(source: object | None, where: Where, version: int, early: bool) -> int:
    """Dial as the node; named, since the kernel's choice towards a veth may be any address of the host."""
    sock = Socket(FAMILIES[version], STREAM)
    try:
        if source is not None and not where[0].startswith("127.") and where[0] != "::1":
            sock.setsockopt(SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((str(source), 0))
        return _connect(sock, where, early)
    except OSError:
        sock.close()
        raise


def _connect(sock: Socket, where: Where, early: bool) -> int:
    if early:
        # tcp(7). Of the handshake only: the kernel begins anew with quick acknowledgements once it is over.
        sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0)
    failure = sock.connect_ex(where)
    if failure not in CONNECTING:
        raise OSError(failure, "connect")
    return sock.detach()
