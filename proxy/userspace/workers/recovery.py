"""A worker that follows one that was killed finds its flows in the table of descriptors, and goes on with them.

Why this is safe: no byte is in user space between two events, so a killed worker can have lost one at most in the
midst of one read and its write. The kernel counts both sides; where what was read is not what was given, bytes
are missing, and the flow ends by RST: a client may lose its connection, and never gets a wrong stream.
"""

import errno
import os
import socket
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from functools import lru_cache
from ipaddress import ip_address

from proxy.model import Endpoint, Frontend, IPAddress, Protocol, ServicePort
from proxy.userspace.flow import Flow
from proxy.userspace.pipes import Pipe
from proxy.userspace.relaying import RESET
from proxy.userspace.worker import Former, Worker
from proxy.userspace.workers.reckoning import Side, outcome

UNREAD, UNSENT = 0x541B, 0x5411  # SIOCINQ (also FIONREAD of a pipe), SIOCOUTQ: tcp(7)
INFO_SIZE = 136  # struct tcp_info up to tcpi_bytes_received (linux/tcp.h)
ACKED_AND_RECEIVED = struct.Struct("=QQ")
ACKED_AT = 120
TRIES = 100  # readings of a socket that changes all the time
UNKNOWN = ServicePort("", "", "")


@dataclass(slots=True)
class Found:
    """What was recovered. ``fresh``: accepted clients for whom nothing was done yet."""

    flows: list[Flow]
    fresh: list[int]
    reset: int = 0


def recover(worker: Worker, left: set[int]) -> Found:
    """Go on with every whole flow among the descriptors that were left; what is none is closed."""
    found = Found([], [])
    used: set[int] = set()
    broken: set[int] = set()
    for client in sorted(left):
        endpoint = worker.ledger.peers[client]
        if not endpoint:
            continue
        flow = _resume(worker, client, endpoint) if endpoint in left else None
        if flow is None:
            worker.ledger.peers[client] = 0
            broken |= {client, endpoint}
            continue
        found.flows.append(flow)
        used |= {client, endpoint}
        for side in (flow.client_side, flow.endpoint_side):
            if side is not None and side.pipe is not None:
                used |= {side.pipe.reader, side.pipe.writer}
    for fd in left - used:
        _sort_out(worker, fd, found, broken=fd in broken)
    return found


def forsake(worker: Worker, left: set[int]) -> None:
    """Close all that was left: going on with it has failed too often."""
    for fd in left:
        worker.ledger.peers[fd] = worker.ledger.pipes[fd] = 0
        with suppress(OSError):
            if _is_connection(fd):
                _reset(fd)
            else:
                os.close(fd)


def table() -> set[int]:
    """All open descriptors of this process."""
    names = os.listdir("/proc/self/fd")  # noqa: PTH208 - thousands, and only their numbers matter
    return {fd for fd in map(int, names) if _is_open(fd)}  # not those that this look took


def resolve(worker: Worker, found: Found) -> None:
    """The listeners are known again: flows are counted where they belong, and clients who waited are served."""
    for flow in found.flows:
        listener = worker.served(flow.listener.frontend)
        if listener is not None and flow.open and isinstance(flow.listener, Former):
            flow.traffic.active -= 1
            flow.listener, flow.traffic = listener, listener.traffic
            flow.traffic.active += 1
            worker.limit_age(flow)
    for fd in found.fresh:
        try:
            listener = worker.served(_frontend(fd))
            if listener is not None:
                worker.engine.serve_accepted(listener, fd, _name(fd, peer=True)[0])
                continue
        except OSError:
            pass  # it has gone meanwhile
        _reset(fd)
    found.flows.clear()
    found.fresh.clear()
    worker.forget([(UNKNOWN, Protocol.TCP)])


def _resume(worker: Worker, client: int, endpoint: int) -> Flow | None:
    """Go on with one flow, or None where that cannot be."""
    fds = (client, endpoint)
    try:
        pipes = [_pipe(worker, fd) for fd in fds]
        one, other = (_reading(fd) for fd in fds)
        halves = outcome(one, other, *(0 if pipe is None else pipe.held for pipe in pipes))
        if halves is None:
            return None
        whom = Endpoint(*_known(*_name(endpoint, peer=True)))
        flow = worker.former_flow(_frontend(client), UNKNOWN, _name(client, peer=True)[0], whom)
    except OSError:
        return None
    worker.engine.adopt(flow, fds, halves, pipes)
    return flow


def _sort_out(worker: Worker, fd: int, found: Found, *, broken: bool) -> None:
    """A descriptor of no whole flow: a client for whom nothing was done yet, or something to be ended."""
    half_done = worker.ledger.pipes[fd] != 0
    worker.ledger.pipes[fd] = 0
    with suppress(OSError):
        if not _is_connection(fd):
            os.close(fd)
            return
        reading = _reading(fd)
        if reading.untouched and not half_done:
            found.fresh.append(fd)
        elif broken or reading.open or half_done:
            found.reset += 1
            _reset(fd)
        else:
            os.close(fd)  # both directions were over; this passes the last FIN on


def _pipe(worker: Worker, fd: int) -> Pipe | None:
    ends = worker.ledger.pipe_of(fd)
    if ends is None:
        return None
    reader, writer = ends
    return Pipe(reader, writer, _number(reader, UNREAD))


def _reading(fd: int) -> Side:
    """What the kernel has counted, all at one moment. Raises OSError."""
    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
    try:
        unread = 0
        for _ in range(TRIES):
            unsent = _number(fd, UNSENT)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_SIZE)
            before, unread = unread, _number(fd, UNREAD)
            # Nobody reads or writes here. So none unread after it means none before, and none unsent before it
            # means none after; else the numbers must be the same before and after.
            if unread == before and (not unsent or unsent == _number(fd, UNSENT)):
                acked, received = ACKED_AND_RECEIVED.unpack_from(info, ACKED_AT)
                return Side(info[0], received=received, unread=unread, acked=acked, unacked=unsent)
    finally:
        sock.detach()
    raise OSError(errno.EAGAIN, "the socket does not come to rest")


def _number(fd: int, request: int) -> int:
    return int(struct.unpack("i", ioctl(fd, request, b"\0\0\0\0"))[0])


def _frontend(client: int) -> Frontend:
    return Frontend(*_known(*_name(client, peer=False)), Protocol.TCP)


@lru_cache(4096)
def _known(address: str, port: int) -> tuple[IPAddress, int]:
    """Thousands of flows share few of these, and turning text into addresses is what costs most."""
    return ip_address(address.partition("%")[0]), port


def _name(fd: int, *, peer: bool) -> tuple[str, int]:
    # The longer address has room for the shorter one; asking the family first would be three calls more.
    sock = socket.SocketType(socket.AF_INET6, socket.SOCK_STREAM, 0, fd)
    try:
        address, port = (sock.getpeername() if peer else sock.getsockname())[:2]
    finally:
        sock.detach()
    return address, port


def _is_connection(fd: int) -> bool:
    """Whether it is a TCP socket that does not listen."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        return not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        sock.detach()


def _reset(fd: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd) as sock, suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
