"""Netlink sockets that send many messages at once and read what the kernel says to them.

A send is one system call however many messages it carries. The kernel works them off before it returns, and speaks
of those that failed and of the last: a dozen changes cost little more than one. Synchronous, for worker threads.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cni import templates
from netplane.errors import KernelError
from netplane.linux.namespaces import CLONE_NEWNET, setns

NETFILTER = 12  # NETLINK_NETFILTER, which Python's socket module does not name
_ANSWER = struct.Struct("=IHHIIi")  # struct nlmsghdr, and the first word of struct nlmsgerr; one a datagram
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_READ_BYTES = 1 << 16
_IDLE = 2  # sockets that are kept for the next verb; a burst opens its own
_PORTION = 100  # messages a send: the answers to them fit the socket's buffer
_BEGIN, _END = (bytes(templates.batch(kind).fill()) for kind in (templates.BATCH_BEGIN, templates.BATCH_END))


class NetlinkSocket:
    """``protocol`` is NETLINK_ROUTE or ``NETFILTER``; it belongs to the namespace it was opened in."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def ask(self, messages: Sequence[bytearray]) -> list[int]:
        """Do each message; for each 0 or an errno. One that fails stops no other. Raises OSError."""
        statuses: list[int] = []
        for start in range(0, len(messages), _PORTION):
            portion = messages[start : start + _PORTION]
            first = self._send(portion, portion[-1])
            failed = self._failed(first, first + len(portion) - 1)
            statuses += [failed.get(number, 0) for number in range(first, first + len(portion))]
        return statuses

    def dump(self, message: bytearray) -> Iterator[bytes]:
        """Each message that the kernel answers to a request for all there is. Raises OSError."""
        self._sequence += 1
        templates.stamp(message, self._sequence)
        self._socket.send(message)
        while True:
            data, offset = self._socket.recv(_READ_BYTES), 0
            while offset < len(data):
                size, kind, _, _, _, status = _ANSWER.unpack_from(data, offset)
                if kind == _ERROR:
                    raise OSError(-status, os.strerror(-status))
                if kind == _DONE:
                    return
                yield data[offset : offset + size]
                offset += (size + 3) & ~3

    def transaction(self, messages: Sequence[bytearray]) -> int:
        """nfnetlink: all of them or none; 0 or the first errno. Raises OSError."""
        first = self._send([bytearray(_BEGIN), *messages, bytearray(_END)], messages[-1])
        failed = self._failed(first, first + len(messages), whole=True)
        return next(iter(failed.values()), 0)

    def replay(self, data: bytearray, asked: int, *, whole: bool = False) -> dict[int, int]:
        """Messages that are numbered from 1, ``asked`` the one that is answered in any case: errno by number, of those
        that failed; ``whole`` for nfnetlink. Raises OSError.
        """
        self._socket.send(data)
        return {number: status for number, status in self._failed(1, asked, whole=whole).items() if status}

    def _send(self, messages: Sequence[bytearray], last: bytearray) -> int:
        """The number of the first; ``last`` is answered even when it succeeds."""
        first = self._sequence + 1
        self._sequence += len(messages)
        for number, message in enumerate(messages, first):
            templates.stamp(message, number)
        templates.acknowledge(last)
        self._socket.send(b"".join(messages))
        return first

    def _failed(self, first: int, last: int, *, whole: bool = False) -> dict[int, int]:
        """Errno by number, up to the answer to ``last``; of a ``whole`` batch whose begin fails nothing else comes."""
        failed: dict[int, int] = {}
        while last not in failed and not (whole and first in failed):
            try:
                data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                raise TimeoutError(errno.ETIMEDOUT, "the kernel did not answer") from None
            _, kind, _, number, _, status = _ANSWER.unpack_from(data)
            if kind == _ERROR and number >= first and (status or number == last):
                failed.setdefault(number, -status)
        return failed


class HostSockets:
    """The sockets of the namespace it is made in, kept open, for many threads.

    To open one costs more than most of what it carries; and the closing of one that deleted nftables elements would
    wait for them to be released (13 ms). A pod's are opened one by one. ``ipv6``: whether this kernel has it.
    """

    def __init__(self) -> None:
        self._netns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self._netns)
        self.inode = f"{status.st_dev}:{status.st_ino}"
        self.ipv6 = Path("/proc/sys/net/ipv6").is_dir()
        self._idle: list[NetlinkSocket] = []
        self._lock = threading.Lock()
        self._nftables: NetlinkSocket | None = None

    def take(self) -> NetlinkSocket:
        """A socket for rtnetlink, nobody else's until it is given back."""
        try:
            return self._idle.pop()
        except IndexError:
            return NetlinkSocket()

    def give_back(self, taken: NetlinkSocket, *, reusable: bool) -> None:
        """``reusable``: no answer can still be in it."""
        if reusable and len(self._idle) < _IDLE:
            self._idle.append(taken)
        else:
            taken.close()

    def pod(self, netns: int) -> NetlinkSocket:
        """A socket for rtnetlink of the namespace of a descriptor. Raises KernelError."""
        try:
            setns(netns, CLONE_NEWNET)
        except OSError as error:
            raise KernelError(f"cannot enter the pod's network namespace: {error.strerror}") from None
        try:
            return NetlinkSocket()
        finally:
            setns(self._netns, CLONE_NEWNET)

    def transaction(self, messages: Sequence[bytearray]) -> int:
        """nftables: all of ``messages`` or none; 0 or the first errno. Raises OSError."""
        with self._lock:
            if self._nftables is None:
                self._nftables = NetlinkSocket(NETFILTER)
            return self._nftables.transaction(messages)

    def replay(self, data: bytearray, asked: int) -> dict[int, int]:
        """nftables: a transaction that is put together already (``NetlinkSocket.replay``)."""
        with self._lock:
            if self._nftables is None:
                self._nftables = NetlinkSocket(NETFILTER)
            return self._nftables.replay(data, asked, whole=True)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            for kept in (*self._idle, *((self._nftables,) if self._nftables else ())):
                kept.close()
            self._idle, self._nftables = [], None
            os.close(self._netns)
