"""Starts one worker, and starts it again when it was killed, with all its descriptors still open.

Why: established connections are sockets, and sockets live in a table of descriptors. A keeper and its worker
have one table between them (clone(2) with CLONE_FILES), so when the worker dies nothing is closed, and the next
one goes on from the table and the ledger. A keeper has no thread, no event loop and nothing to do, so there is
hardly a way for it to die, and it may call clone(2) at any time.
"""

import logging
import os
import random
import signal
import socket
import time

from proxy.userspace.streams.ledger import Ledger
from proxy.userspace.workers import process
from proxy.userspace.workers.cloning import clone_with_table, name_process

log = logging.getLogger(__name__)

KEEPER, WORKER = b"netplane-keeper", b"netplane-worker"  # as ps(1) shows them
SHORT_LIFE = 1.0  # seconds; a worker that failed sooner is started again after a pause
PAUSES = (0.0, 0.05, 0.2, 1.0)  # seconds, by the number of such failures in a row
PREPARED = 65_536  # descriptors for which there is room from the start: half a MiB of the kernel's memory
LOST = len(PAUSES)  # so many in a row, and what was left is given up: it may be what they fail of


def keep(channel: socket.socket, options: process.Options) -> int:
    """Until a worker has ended in order; the exit status."""
    ledger = Ledger()
    name_process(KEEPER)
    _make_room(min(ledger.size, PREPARED))
    short, died = 0, time.monotonic()
    while True:
        began = time.monotonic()
        pid = _start()
        if pid == 0:
            _work(channel, options, ledger, died, forsake=short >= LOST)
        _, status = os.waitpid(pid, 0)
        died = time.monotonic()
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return 0
        lived = died - began
        failed = lived < SHORT_LIFE and os.waitstatus_to_exitcode(status) != -signal.SIGKILL
        short = short + 1 if failed else 0
        if short > LOST and _is_over(channel):
            return 1  # no worker gets far enough to learn it itself
        log.warning(
            "worker %d ended with %d after %.1f s: another one goes on with its flows",
            pid,
            os.waitstatus_to_exitcode(status),
            lived,
        )
        time.sleep(PAUSES[min(short, LOST - 1)])


def _make_room(descriptors: int) -> None:
    """Let the table of descriptors grow now, while it is not shared.

    When a shared one grows, the kernel waits for all processors to have noticed (expand_fdtable in fs/file.c), and
    that takes 10 ms or more in the midst of accept(2), in which the worker relays nothing.
    """
    last = descriptors - 1
    os.dup2(0, last)
    os.close(last)


def _is_over(channel: socket.socket) -> bool:
    """Whether nobody is at the channel's other end any more."""
    try:
        return not channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _start() -> int:
    """A child with our table; where that is forbidden, with one of its own, which ends with it."""
    try:
        return clone_with_table()
    except OSError as error:
        log.warning(
            "a worker that is killed will take its connections with it: cannot share descriptors: %s", error
        )
        return os.fork()


def _work(
    channel: socket.socket, options: process.Options, ledger: Ledger, died: float, *, forsake: bool
) -> None:
    status = 1
    name_process(WORKER)
    random.seed()
    try:
        process.run(channel, options, ledger, died, forsake=forsake)
        status = 0
    except BaseException:
        log.exception("bug in a worker, please report it")
    finally:
        os._exit(status)
