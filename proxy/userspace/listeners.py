"""A listening socket for each frontend, and whom its clients are given to.

Why one each: a frontend without endpoints has no socket, so the kernel itself refuses its clients at once.
"""

import errno
import logging
import random
import socket
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import ip_address

from netplane.errors import KernelError
from proxy.balance import Affinity, Ejections, RoundRobin, Where, lightest
from proxy.model import Balance, Endpoint, Frontend, IPAddress, Protocol, Target
from proxy.userspace import observe
from proxy.userspace.traffic import Accounts, Traffic

log = logging.getLogger(__name__)

IP_FREEBIND = 15  # ip(7); on AF_INET6 sockets too
BACKLOG = 4096  # the kernel caps it at net.core.somaxconn
SO_ACCEPTCONN = 30
V6_ONLY = 1


class Place:
    """One endpoint in the forms that dialling takes: making them costs more than a system call.

    ``traffic``: where the clients that it serves are counted.
    """

    __slots__ = ("endpoint", "packed", "traffic", "where")

    def __init__(self, endpoint: Endpoint, traffic: Traffic) -> None:
        self.endpoint = endpoint
        self.traffic = traffic
        self.packed = endpoint.address.packed
        self.where: Where = (str(endpoint.address), endpoint.port)


class Choice:
    """One pool's endpoints, and whose turn it is.

    The first turn is anybody's: with many nodes, workers and restarts, the first endpoint would have most of the
    connections that live long.
    """

    __slots__ = ("endpoints", "places", "turns", "where")

    def __init__(self) -> None:
        self.endpoints: Sequence[Endpoint] = ()
        self.places: list[Place] = []
        self.where: list[Where] = []
        self.turns = RoundRobin(random.getrandbits(16))

    def point_at(self, endpoints: Sequence[Endpoint], origin: "Origin") -> None:
        """Serve from these from now on; whose turn it was is kept."""
        self.endpoints = endpoints
        self.places = [Place(endpoint, origin.traffic_at(endpoint)) for endpoint in endpoints]
        self.where = [place.where for place in self.places]


class Origin:
    """The frontend by which flows came, and what is counted there.

    A ``Listener``; or what is known of the listener of another process, by which flows came that are here now.
    ``traffic``: where clients are counted who have no endpoint.
    """

    __slots__ = ("accounts", "affinity", "frontend", "load", "target", "traffic")

    def __init__(self, frontend: Frontend, target: Target, accounts: Accounts, affinity: Affinity) -> None:
        self.frontend = frontend
        self.target = target
        self.accounts = accounts
        self.traffic = accounts.open(target.service, frontend.protocol)
        self.affinity = affinity
        self.load: dict[Where, int] | None = None

    def traffic_at(self, endpoint: Endpoint) -> Traffic:
        """Where the clients of this endpoint are counted."""
        if not self.accounts.by_endpoint:
            return self.traffic
        return self.accounts.open(self.target.service, self.frontend.protocol, endpoint)


class Listener(Origin):
    """A frontend's open socket, and its target in a form made for picking."""

    __slots__ = ("ejections", "fd", "inside", "outside", "sock")

    def __init__(
        self,
        frontend: Frontend,
        sock: socket.socket,
        target: Target,
        accounts: Accounts,
        affinity: Affinity,
        ejections: Ejections,
    ) -> None:
        super().__init__(frontend, target, accounts, affinity)
        self.sock = sock
        self.fd = sock.fileno()
        self.ejections = ejections
        self.inside, self.outside = Choice(), Choice()
        self.point_at(target)

    def point_at(self, target: Target) -> None:
        """Serve new connections from ``target`` from now on; whose turn it was is kept."""
        self.target = target
        self.traffic = self.accounts.open(target.service, self.frontend.protocol)
        # Counting costs something with every connection, so it is done where somebody chose by it.
        self.load = None if target.balance is Balance.ROUND_ROBIN else self.load or {}
        self.inside.point_at(target.inside.endpoints, self)
        self.outside.point_at(target.outside.endpoints, self)

    def first(self, choice: Choice, client: str, now: float) -> int:
        """Whose turn it is; with affinity, first of all the endpoint that this client had before."""
        if self.target.affinity is not None:
            first = self.affinity.find(client, choice.endpoints, now)
            if first is not None:
                return first
        first = choice.turns.next(choice.endpoints)
        if self.load is not None:
            first = lightest(self.target.balance, self.load, choice.where, first)
        return self.ejections.pass_over(choice.where, first, now) if self.ejections.failed else first

    def admits(self, address: IPAddress) -> bool:
        """Whether the frontend's source ranges let this client in."""
        allowed = self.target.allowed
        return not allowed or any(address in net for net in allowed if net.version == address.version)

    def close(self) -> None:
        """Stop listening for good, also for copies that a supervisor keeps."""
        retire(self.sock)


def retire(sock: socket.socket) -> None:
    """Close a frontend's socket so that a copy of it elsewhere serves nobody either.

    shutdown(2) ends a TCP listener. UDP has no such end: connected to itself, the socket is nobody's any
    more, and with SO_REUSEADDR a successor may take its place before the copy is closed.
    """
    with sock:
        try:
            if sock.type == socket.SOCK_DGRAM:
                _connect_to_itself(sock)
            else:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            # It was not listening any more; or no route leads to it, so no copy gets anything either.
            if error.errno not in (errno.ENOTCONN, errno.ENETUNREACH):
                log.warning("a copy of a closed listener may still have clients: %s", error)


def _connect_to_itself(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    address, port = sock.getsockname()[:2]
    loopback = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    sock.connect((loopback if ip_address(address).is_unspecified else address, port))


@dataclass(frozen=True, slots=True)
class Cannot:
    """Why a frontend has no socket. ``again``: somebody else may remove the cause."""

    reason: str
    again: bool


def open_listener(frontend: Frontend) -> socket.socket | Cannot:
    """A non-blocking socket for a TCP or UDP frontend: listening, or bound."""
    kind = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}.get(frontend.protocol)
    if kind is None:
        return Cannot(f"{frontend.protocol} is not served in userspace mode", again=False)
    try:
        if kind == socket.SOCK_STREAM:
            return _open(frontend, kind, reuse=True)
        try:
            return _open(frontend, kind, reuse=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not observe.retired(frontend.address, frontend.port):
                raise
        return _open(frontend, kind, reuse=True)  # one of ours was here, and has not left the supervisor yet
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return Cannot(f"port {frontend.port} is taken by another process", again=True)
        return Cannot(f"cannot listen: {error.strerror}", again=True)


def _open(frontend: Frontend, kind: int, *, reuse: bool) -> socket.socket:
    family = socket.AF_INET if frontend.address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        _configure(sock, reuse=reuse)
        sock.bind((str(frontend.address), frontend.port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
        elif reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        sock.close()
        raise
    return sock


def _configure(sock: socket.socket, *, reuse: bool) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, V6_ONLY)
    # An externalIP or a ClusterIP is nobody's interface address; IPv6 demands a word for that.
    sock.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    if sock.type == socket.SOCK_STREAM:
        # Accepted sockets inherit both, which saves two calls a connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def adoptable(kept: Mapping[str, Sequence[socket.socket]]) -> dict[Frontend, socket.socket]:
    """The sockets of an earlier process that still listen, by the frontend they are bound to.

    All others, and doubles, are closed. Raises KernelError where a descriptor is no socket at all.
    """
    found: dict[Frontend, socket.socket] = {}
    for name, socks in kept.items():
        for sock in socks:
            frontend = _bound_to(sock, name)
            if frontend is None or frontend in found:
                sock.close()
            else:
                sock.setblocking(False)
                found[frontend] = sock
    return found


def _bound_to(sock: socket.socket, name: str) -> Frontend | None:
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        address, port = sock.getsockname()[:2]
        if sock.type == socket.SOCK_STREAM:
            serves, protocol = sock.getsockopt(socket.SOL_SOCKET, SO_ACCEPTCONN), Protocol.TCP
        else:
            serves, protocol = sock.type == socket.SOCK_DGRAM and port and not _has_peer(sock), Protocol.UDP
    except OSError as error:
        raise KernelError(f"cannot use the descriptor kept as {name}: {error.strerror}") from None
    return Frontend(ip_address(address), port, protocol) if serves else None


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def kept_name(frontend: Frontend) -> str:
    """A short name, and the same in every process, under which the supervisor keeps the socket.

    All names come in one environment variable (LISTEN_FDNAMES), to which the kernel gives 128 KiB
    (MAX_ARG_STRLEN in linux/binfmts.h): a hash of 8 characters leaves room for 14,500, whatever the addresses.
    """
    where = frontend.address.packed + frontend.port.to_bytes(2, "big") + frontend.protocol.encode()
    return urlsafe_b64encode(blake2b(where, digest_size=6).digest()).decode()
