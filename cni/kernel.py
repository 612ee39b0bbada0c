"""A netlink socket that sends many messages at once and reads what the kernel says to each.

A send is one system call however many messages it carries, and the answers come in their order: a dozen changes
cost little more than one. Synchronous, for worker threads.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from cni import templates
from netplane.linux.namespaces import entered_netns

NETFILTER = 12  # NETLINK_NETFILTER, which Python's socket module does not name
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_STATUS = struct.Struct("=i")  # struct nlmsgerr, of which NETLINK_CAP_ACK leaves this and a header
_ERROR = 2  # NLMSG_ERROR
_READ_BYTES = 1 << 16
_SECONDS = 60
_PORTION = 100  # messages a send: the answers to them fit the socket's buffer


class NetlinkSocket:
    """``protocol`` is NETLINK_ROUTE or ``NETFILTER``; it belongs to the namespace it was opened in."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE, netns: int | None = None) -> None:
        if netns is None:
            self._socket = _open(protocol)
        else:
            with entered_netns(netns):
                self._socket = _open(protocol)
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
            first = self._send(portion)
            statuses += self._answers(first, len(portion))
        return statuses

    def transaction(self, messages: Sequence[bytearray]) -> int:
        """nfnetlink: all of them or none; 0 or the first errno. Raises OSError."""
        begin, end = (templates.batch(kind).fill() for kind in (templates.BATCH_BEGIN, templates.BATCH_END))
        first = self._send([begin, *messages, end])
        return next((status for status in self._answers(first, len(messages) + 1, skip=1) if status), 0)

    def _send(self, messages: Sequence[bytearray]) -> int:
        first = self._sequence + 1
        for message in messages:
            self._sequence += 1
            templates.stamp(message, self._sequence)
        self._socket.send(b"".join(messages))
        return first

    def _answers(self, first: int, count: int, skip: int = 0) -> list[int]:
        """Statuses of ``count`` messages from ``first``, in order. Of the first ``skip`` only failure is told."""
        found: dict[int, int] = {}
        while len(found) < count - skip:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
            offset = 0
            while offset + _HEADER.size <= len(data):
                size, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
                if kind == _ERROR and first <= sequence < first + count:
                    status = -_STATUS.unpack_from(data, offset + _HEADER.size)[0]
                    found[sequence] = found.get(sequence) or status
                    if sequence < first + skip and status:
                        return [status]
                offset += (size + 3) & ~3
        return [found.get(number, 0) for number in range(first, first + count)]


class Transactions:
    """nftables transactions by one socket that stays open, for many threads: its closing would wait for what was
    deleted to be released (13 ms).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: NetlinkSocket | None = None

    def __call__(self, messages: Sequence[bytearray]) -> int:
        """All of ``messages`` or none; 0 or the first errno. Raises OSError."""
        with self._lock:
            if self._socket is None:
                self._socket = NetlinkSocket(NETFILTER)
            return self._socket.transaction(messages)

    def close(self) -> None:
        """Close the socket, where there is one."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


def _open(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _SECONDS, 0))
    return opened
