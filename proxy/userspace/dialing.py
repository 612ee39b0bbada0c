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
from typing import Final

from proxy.model import Endpoint, IPAddress, NodeFacts
from proxy.userspace.listeners import Place
from proxy.userspace.sources import Client, classify, keeps_address
from proxy.userspace.syscalls import IP_TRANSPARENT, IPV6_TRANSPARENT, dial_as

log = logging.getLogger(__name__)

IP_BIND_ADDRESS_NO_PORT = 24  # ip(7), Linux 4.2
FIRST_PORT, LAST_PORT = 10300, 29999  # pods draw from 30000-60999; below are netplane's own ports
PORTS = LAST_PORT - FIRST_PORT + 1
TAKEN: Final = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)  # by the port, or by the 4-tuple
PORT_TRIES: Final = 32
REMEMBERED_CLIENTS: Final = 65536

Where = tuple[str, int]


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

    def dial(self, client: Client, place: Place, keep_outside: bool, early: bool) -> int:
        """A non-blocking socket that is connecting, or connected. Raises OSError where the kernel says no.

        The socket is bare: ``settle`` it once it lives on. ``early``: data follows at once, and carries the
        handshake's last acknowledgement.
        """
        if self._keeps_address(client, place.endpoint, place.where, keep_outside):
            port = place.endpoint.port
            for source_port in islice(self._ports, PORT_TRIES):
                try:
                    return dial_as(client.packed, source_port, place.packed, port, early)
                except OSError as error:
                    if error.errno not in TAKEN:
                        raise
            self._hide(client, place.endpoint)
        return _dial_from(self.node.address(place.endpoint.address.version), place.where, early)

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


def _datagram_socket(version: int) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


def _datagram_as(source: tuple[str, int], where: tuple[str, int], version: int) -> socket.socket | None:
    """As somebody else, from this very port, which is not shared: UDP would not check the whole 4-tuple."""
    sock = _datagram_socket(version)
    try:
        if version == 4:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.bind(source)
        sock.connect(where)
    except OSError as error:
        sock.close()
        if error.errno in TAKEN:
            return None
        raise
    return sock


def _dial_from(source: IPAddress | None, where: Where, early: bool) -> int:
    """Dial as the node; named, since the kernel's choice towards a veth may be any address of the host."""
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    sock = socket.SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if source is not None and not where[0].startswith("127.") and where[0] != "::1":
            sock.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((str(source), 0))
        if early:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # as in ``dial_as``
        failure = sock.connect_ex(where)
        if failure not in (errno.EINPROGRESS, 0):
            raise OSError(failure, "connect")
        return sock.detach()
    except OSError:
        sock.close()
        raise
