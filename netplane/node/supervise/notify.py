"""What a daemon tells its supervisor, and the descriptors it leaves in the supervisor's keeping.

A daemon that is killed has lost its memory but need not lose its sockets: it sent them here while it
was well (sd_notify(3), ``FDSTORE=1``) and gets them back when it is started again. The words are
systemd's, so the same daemon runs under systemd unchanged.
"""

import array
import fcntl
import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

MAX_MESSAGE = 4096
# SCM_MAX_FD: the kernel carries at most 253 descriptors in one message (unix(7)).
MAX_DESCRIPTORS = 253
# Kept descriptors live above this number, so that they can be laid out from 3 upwards for a child
# without one overwriting another (see process.layout).
LOWEST_KEPT = 100
# All names go into one string of the environment, which may have 32 pages (MAX_ARG_STRLEN in linux/binfmts.h); what
# does not fit would keep the daemon from starting at all.
MOST_NAMES = 32 * 4096 - len("LISTEN_FDNAMES=") - 1
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """One sd_notify(3) message, as far as a supervisor acts on it."""

    ready: bool = False
    stopping: bool = False
    status: str | None = None
    store: bool = False
    remove: bool = False
    name: str = "stored"


def parse(message: bytes) -> Notice:
    """Read ``KEY=value`` lines (sd_notify(3)); unknown keys are other people's and are passed over."""
    fields: dict[str, str] = {}
    for line in message.decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            fields[key] = value
    return Notice(
        ready=fields.get("READY") == "1",
        stopping=fields.get("STOPPING") == "1",
        status=fields.get("STATUS"),
        store=fields.get("FDSTORE") == "1",
        remove=fields.get("FDSTOREREMOVE") == "1",
        name=_name(fields.get("FDNAME", "stored")),
    )


def _name(text: str) -> str:
    """A name as LISTEN_FDNAMES can carry it (sd_pid_notify_with_fds(3)); else systemd's own default."""
    usable = 0 < len(text) <= 255 and text.isascii() and text.isprintable() and ":" not in text
    return text if usable else "stored"


@dataclass(frozen=True, slots=True)
class Held:
    """A descriptor of this process that a daemon is to receive under `name`."""

    name: str
    fd: int


class Store:
    """The descriptors one daemon left with us; the same open socket is kept once under a name."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, int, int], int] = {}
        self._names = 0  # bytes of all names, each with its colon

    def held(self) -> list[Held]:
        """Everything kept, in the order it came."""
        return [Held(key[0], fd) for key, fd in self._held.items()]

    def add(self, name: str, fds: list[int]) -> None:
        """Keep duplicates of `fds`; the caller still owns, and closes, its own."""
        for fd in fds:
            key = (name, *_identity(fd))
            if key in self._held:
                continue
            if self._names + len(name) + 1 > MOST_NAMES:
                log.warning(
                    "cannot keep %s: %d descriptors are kept, and no more names fit", name, len(self._held)
                )
                return
            self._held[key] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_KEPT)
            self._names += len(name) + 1

    def remove(self, name: str) -> None:
        """Forget every descriptor kept under `name`."""
        for key in [key for key in self._held if key[0] == name]:
            os.close(self._held.pop(key))
            self._names -= len(name) + 1

    def close(self) -> None:
        """Give up everything."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
        self._names = 0


def _identity(fd: int) -> tuple[int, int, int]:
    """What makes two descriptors the same open end; both ends of a pipe share an inode, not a mode."""
    status = os.fstat(fd)
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if stat.S_ISREG(status.st_mode) or stat.S_ISCHR(status.st_mode):
        return status.st_dev, status.st_ino, fd  # two opens of one file are two things
    return status.st_dev, status.st_ino, mode


def open_socket(path: Path) -> socket.socket:
    """The datagram socket at `path` that a daemon's NOTIFY_SOCKET names; not blocking."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.bind(str(path))
    path.chmod(0o600)
    return listener


def receive(listener: socket.socket) -> tuple[Notice, list[int]] | None:
    """The next message and the descriptors that came with it (the caller closes them); None if none waits."""
    size = array.array("i").itemsize
    try:
        message, ancillary, _flags, _sender = listener.recvmsg(
            MAX_MESSAGE, socket.CMSG_SPACE(MAX_DESCRIPTORS * size), socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        return None
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % size])
    return parse(message), list(fds)
