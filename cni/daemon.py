"""`netplane cni serve`: answers the executable, one worker thread a request.

Everything a verb does (SQLite, netlink, entering namespaces) blocks, and belongs to threads. They accept, too: a
request that the event loop handed over would wait for two threads to wake instead of one. The kernel wakes one
thread a request, the one that was last at work and has everything at hand.
A daemon that stops finishes the verbs it has begun.
"""

import asyncio
import fcntl
import gc
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import orjson

from cni import errors, mend, observe, protocol, verbs, wire
from cni.errors import CniError, Code
from cni.journal import Journal, journal_path
from cni.leases import Leases, store_path
from cni.node import Node
from netplane.config import Paths
from netplane.errors import ConfigError, KernelError, NetplaneError, PeerError
from netplane.runner import Daemon

LISTENER_NAME = "cni"
_BACKLOG = 1024
_PATH_LIMIT = 100
_ACCEPT_AGAIN_SECONDS = 0.1
_PATIENCE = struct.pack("ll", 10, 0)  # seconds: a local process sends a request it has whole, at once
_ONE = select.EPOLLIN | select.EPOLLONESHOT  # of the threads that wait, one
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """``mtu`` (pods' links) by default that of the underlay; ``workers`` is how many verbs run at once."""

    root: Path = Path("/")
    mtu: int | None = None
    workers: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if self.mtu is not None and not 576 <= self.mtu <= 65535:
            raise ValueError(f"mtu must be from 576 to 65535, not {self.mtu}")


async def serve(settings: Settings, daemon: Daemon) -> None:
    """Mend what a crash left, then answer until told to stop. Raises NetplaneError where it cannot start."""
    paths = Paths(settings.root)
    with (
        _only_one(paths.state),
        closing(Leases(store_path(paths.state))) as leases,
        # Before the journal is read: a DEL written down later than that finds us here (see ``offline``).
        _listen(paths.cni_socket, daemon) as listener,
        closing(Node(leases, observe.boot_id(), Journal(journal_path(paths.state)), settings.mtu)) as node,
    ):
        await asyncio.to_thread(mend.mend, node)
        gc.freeze()  # what is loaded stays: no pause of 10 ms to look through it again
        with _working(listener, settings.workers, node):
            daemon.ready(
                "answering"
            )  # how many attachments there are, `netplane cni status` counts at its time
            await daemon.stopping.wait()


@contextmanager
def _working(listener: socket.socket, workers: int, node: Node) -> Iterator[None]:
    """Requests are answered inside the block; at its end those that have begun are finished."""
    stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    gate = select.epoll()
    gate.register(stop, select.EPOLLIN)
    gate.register(listener, _ONE)

    def work() -> None:
        while (connection := _next(listener, gate, stop)) is not None:
            _converse(connection, node)

    try:
        with ThreadPoolExecutor(workers, "cni") as pool:
            try:
                for _ in range(workers):
                    pool.submit(work)
                yield
            finally:
                os.eventfd_write(stop, 1)
    finally:
        gate.close()
        os.close(stop)


def _next(listener: socket.socket, gate: select.epoll, stop: int) -> socket.socket | None:
    """The next connection, or None once we are to stop. Who takes one lets the next thread look for another."""
    while True:
        if any(descriptor == stop for descriptor, _ in gate.poll()):
            return None
        try:
            return listener.accept()[0]
        except BlockingIOError:
            continue
        except OSError as error:  # out of descriptors: verbs under way will free some
            log.warning("cannot accept a request: %s", error.strerror or error)
            select.select([stop], [], [], _ACCEPT_AGAIN_SECONDS)
        finally:
            gate.modify(listener, _ONE)


def _converse(connection: socket.socket, node: Node) -> None:
    """One connection, one request, one answer."""
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        try:
            call = wire.receive(connection)
        except (OSError, NetplaneError) as error:
            log.warning("cannot read a request: %s", error)
            return
        begun = time.monotonic()
        try:
            status, stdout = answer(call, node)
            wire.reply(connection, status, stdout)
        except OSError as error:
            log.warning("cannot answer %s: %s", _named(call), error.strerror or error)
            return
        except Exception:  # the daemon outlives any one request
            log.exception("cannot answer %s", _named(call))
            return
        finally:
            if call.netns is not None:
                os.close(call.netns)
    if status == 0 and log.isEnabledFor(logging.DEBUG):  # what failed has been said; to say this costs 0.1 ms
        log.debug("%s: done in %.1f ms", _named(call), (time.monotonic() - begun) * 1000)


def answer(call: wire.Call, node: Node) -> tuple[int, bytes]:
    """(exit status, standard output) of one request; every failure is an answer too."""
    try:
        if call.environment.get("CNI_COMMAND") == "NETPLANE_MEND":  # ours, not the specification's
            stdout = orjson.dumps(asdict(mend.mend(node))) + b"\n"
        else:
            request = protocol.parse(call.environment, call.stdin)
            stdout = verbs.answer(request, node, call.netns)
    except Exception as error:  # the runtime must read an error object whatever went wrong
        failure = errors.from_exception(error)
        log.warning("%s: %d %s", _named(call), failure.code, failure, exc_info=_if_bug(failure, error))
        return 1, errors.render(failure, protocol.version_of(call.stdin))
    return 0, stdout


def _if_bug(failure: CniError, error: Exception) -> Exception | None:
    return error if failure.code is Code.INTERNAL else None


def _named(call: wire.Call) -> str:
    keys = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME")
    return " ".join(value for key in keys if (value := call.environment.get(key)))


def _listen(path: Path, daemon: Daemon) -> socket.socket:
    """The supervisor's socket where it passed one, else one of our own at ``path``, for root alone."""
    passed = daemon.listeners.get(LISTENER_NAME)
    if passed:
        passed[0].setblocking(False)
        return passed[0]
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise ConfigError(f"cannot listen on {path}: a socket's path has at most {_PATH_LIMIT} bytes")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.fchmod(listener.fileno(), 0o600)  # before bind: the file is never open to others
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise KernelError(f"cannot listen on {path}: {error.strerror}") from None
    return listener


def _only_one(state: Path) -> IO[bytes]:
    """A lock for as long as it is open: two daemons on one store would give one address twice."""
    path = store_path(state).with_name("lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = path.open("wb")
    except OSError as error:
        raise KernelError(f"cannot open {path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise PeerError(f"cannot start: another netplane CNI daemon uses {path.parent}") from None
    return lock
