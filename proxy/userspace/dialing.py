"""Opening a connection towards an endpoint, from the client's address or the node's.

Why a room: this is where kernel features are probed and used by number, and where a client's own ports must
stay untouched. A port the client uses itself would silently kill the client's connection, so ours come from
a range that pods never draw from.
"""

import errno
import logging
import socket
from collections.abc import Iterator
from itertools import count

from netplane.errors import KernelError
from proxy.model import Endpoint, NodeFacts
from proxy.userspace.sources import Client, classify, keeps_address

log = logging.getLogger(__name__)

IP_TRANSPARENT = 19  # ip(7)
IPV6_TRANSPARENT = 75  # linux/in6.h
IP_BIND_ADDRESS_NO_PORT = 24  # ip(7), Linux 4.2
IP_LOCAL_PORT_RANGE = 51  # ip(7), Linux 6.3
FIRST_PORT, LAST_PORT = 10240, 29999  # pods draw from 30000-60999
BIND_TRIES = 64
REMEMBERED_CLIENTS = 65536


class Dialer:
    """Makes connecting sockets. ``node`` may be replaced at any time; clients are then looked at anew."""

    def __init__(self, node: NodeFacts) -> None:
        self._ranged = has_port_range()
        self._ports = count()
        self._clients: dict[str, Client] = {}
        self.node = node
        if not self._ranged:
            log.info(
                "IP_LOCAL_PORT_RANGE is missing (Linux 6.3 has it): ports %d-%d are tried one by one",
                FIRST_PORT,
                LAST_PORT,
            )

    def set_node(self, node: NodeFacts) -> None:
        """Take new facts about the node."""
        if node != self.node:
            self.node = node
            self._clients.clear()

    def client(self, text: str) -> Client:
        """Classify a client's address; remembered, since clients come again."""
        known = self._clients.get(text)
        if known is None:
            if len(self._clients) >= REMEMBERED_CLIENTS:
                self._clients.clear()
            known = self._clients[text] = classify(text, self.node)
        return known

    def dial(self, client: Client, endpoint: Endpoint, keep_outside: bool) -> int:
        """A non-blocking socket that is connecting, or connected. Raises OSError where the kernel says no."""
        family = socket.AF_INET if endpoint.address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            where = (str(endpoint.address), endpoint.port)
            if keeps_address(client, endpoint, keep_outside):
                self._connect_as(sock, str(client.address), where)
            else:
                self._connect_from_node(sock, where)
        except BaseException:
            sock.close()
            raise
        return sock.detach()

    def _connect_from_node(self, sock: socket.socket, where: tuple[str, int]) -> None:
        # Named, because the kernel's choice on a route to a veth may be any address of the host.
        address = self.node.address(4 if sock.family == socket.AF_INET else 6)
        if address is not None and not where[0].startswith("127.") and where[0] != "::1":
            sock.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((str(address), 0))
        _connect(sock, where)

    def _connect_as(self, sock: socket.socket, source: str, where: tuple[str, int]) -> None:
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        if self._ranged:
            sock.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.setsockopt(socket.SOL_IP, IP_LOCAL_PORT_RANGE, LAST_PORT << 16 | FIRST_PORT)
            sock.bind((source, 0))
            _connect(sock, where)
            return
        self._connect_by_trying(sock, source, where)

    def _connect_by_trying(self, sock: socket.socket, source: str, where: tuple[str, int]) -> None:
        """Before Linux 6.3: bind to one port of the range after another until the 4-tuple is free.

        A bound socket cannot be bound again, so a taken 4-tuple (which connect(2) tells) costs the try; the
        caller's next try takes the next port.
        """
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in self._candidate_ports():
            try:
                sock.bind((source, port))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        else:
            raise OSError(errno.EADDRNOTAVAIL, "no free source port")
        _connect(sock, where)

    def _candidate_ports(self) -> Iterator[int]:
        for _ in range(BIND_TRIES):
            yield FIRST_PORT + next(self._ports) % (LAST_PORT - FIRST_PORT + 1)


def _connect(sock: socket.socket, where: tuple[str, int]) -> None:
    failure = sock.connect_ex(where)
    if failure not in (0, errno.EINPROGRESS):
        raise OSError(failure, "connect")


def has_port_range() -> bool:
    """Whether this kernel lets a socket choose its port from a range of its own (Linux 6.3)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_IP, IP_LOCAL_PORT_RANGE, LAST_PORT << 16 | FIRST_PORT)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise KernelError(f"cannot probe IP_LOCAL_PORT_RANGE: {error}") from error
            return False
        return True
