"""Starts a program with the descriptors it is to have, and learns how it ended.

Descriptors are handed over as systemd does (sd_listen_fds(3)): from 3 upwards, counted in LISTEN_FDS,
named in LISTEN_FDNAMES, and addressed to one process by LISTEN_PID. That pid is known only after the
fork, and Python code between fork and exec is not safe; so `posix_spawn` starts a shell of one line
that writes its own pid and becomes the program.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from netplane.node.supervise.notify import Held

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
SHELL = "/bin/sh"
BECOME = 'export LISTEN_PID=$$; exec "$@"'
BECOME_INIT = 'export LISTEN_PID=1; exec "$@"'
# If the supervisor itself is killed, its daemons must not go on without it: a second supervisor would
# start a second set of them.
TIED_TO_US = ("/usr/bin/setpriv", "--pdeathsig", "TERM")
STEADY = 5.0
SHORTEST_DELAY = 0.1
LONGEST_DELAY = 10.0
_PASSED_PRIVATELY = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC")


def restart_delay(ran: float, failures: int) -> float:
    """Seconds before a daemon that ended is started again.

    `ran` is how long it had lived, `failures` how many lives before this one were short as well. One
    that had been steady comes back at once; one that dies young waits 0.1, 0.2, 0.4, ... up to 10 s.
    """
    if ran >= STEADY:
        return 0.0
    return min(LONGEST_DELAY, SHORTEST_DELAY * 2.0 ** min(failures, 10))


def layout(held: Iterable[Held]) -> list[tuple[Held, int]]:
    """Which number each descriptor gets in the child.

    Sources in rising order go to 3, 4, 5, ...: a source is never lower than its own target, so no dup2
    overwrites a source that is still to come.
    """
    ordered = sorted(held, key=lambda one: one.fd)
    return [(one, FIRST_DESCRIPTOR + place) for place, one in enumerate(ordered)]


def environment_for(
    base: Mapping[str, str], held: Sequence[Held], notify: Path | None, extra: Mapping[str, str]
) -> dict[str, str]:
    """The child's environment: ours without what was addressed to us, and what is addressed to it."""
    environment = {key: value for key, value in base.items() if key not in _PASSED_PRIVATELY}
    environment.update(extra)
    if notify is not None:
        environment["NOTIFY_SOCKET"] = str(notify)
    if held:
        environment["LISTEN_FDS"] = str(len(held))
        environment["LISTEN_FDNAMES"] = ":".join(one.name for one, _number in layout(held))
    return environment


def spawn(
    command: Sequence[str],
    *,
    output: int,
    held: Sequence[Held] = (),
    notify: Path | None = None,
    environment: Mapping[str, str] | None = None,
    init: bool = False,
    tied: bool = True,
) -> int:
    """Start `command` in a session of its own, with stdout and stderr on `output`; return its pid.

    `init`: the command makes a PID namespace, and its PID 1 is who the descriptors are for. `tied`: our
    end is the command's. A program that is not there does not raise: its end, with status 127, says so, and
    `output` says why.
    """
    become = [SHELL, "-c", BECOME_INIT if init else BECOME, "sh"] if held else []
    argv = [*(TIED_TO_US if tied else ()), *become, *command]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    actions += [(os.POSIX_SPAWN_DUP2, one.fd, number) for one, number in layout(held)]
    return os.posix_spawn(
        argv[0],
        argv,
        environment_for(os.environ, held, notify, environment or {}),
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )


class Reaper:
    """Collects every child that ends: the ones we started, and as PID 1 the orphans of the whole node.

    Use as a context manager inside a running asyncio loop; nothing else in the process may wait for
    children (asyncio's own subprocesses would).
    """

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self.orphans = 0

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self.reap)
        return self

    def __exit__(self, *_exception: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def expect(self, pid: int) -> asyncio.Future[int]:
        """A future of the exit status of our child `pid` (negative: the signal that ended it)."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[pid] = future
        return future

    def reap(self) -> None:
        """Collect all that have ended; one SIGCHLD may stand for many."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                future = self._waiting.pop(pid, None)
                if future is None:
                    self.orphans += 1
                elif not future.done():
                    future.set_result(os.waitstatus_to_exitcode(status))


def send(pid: int, number: int) -> None:
    """Signal `pid`, which may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
