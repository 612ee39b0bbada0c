"""How every daemon starts, says it is ready, keeps descriptors and stops.

The supervisor's protocol is systemd's (``sd_listen_fds(3)``, ``sd_notify(3)``), so a daemon runs unchanged
under ``netplane supervise`` and under a systemd unit.
"""

import array
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import uvloop

from netplane.errors import ConfigError, NetplaneError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
SEND_SECONDS = 2.0  # a supervisor that does not read must not hold a daemon up for longer
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Daemon:
    """What the outside gives a running daemon, and what it may say back."""

    name: str
    listeners: dict[str, list[socket.socket]] = field(default_factory=dict)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    reload: asyncio.Event = field(default_factory=asyncio.Event)
    _notify: str = ""

    def ready(self, status: str = "") -> None:
        """Start-up is complete: dependants may start."""
        self._send("READY=1" + (f"\nSTATUS={status}" if status else ""))

    def status(self, text: str) -> None:
        """One line for whoever asks the supervisor."""
        self._send(f"STATUS={text}")

    def store(self, name: str, *descriptors: int) -> None:
        """Give copies of descriptors to the supervisor, which hands them to our next process by ``name``."""
        for start in range(0, len(descriptors), 200):  # SCM_MAX_FD is 253
            self._send(f"FDSTORE=1\nFDNAME={name}", descriptors[start : start + 200])

    def unstore(self, name: str) -> None:
        """The supervisor may drop what it keeps under ``name``."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, text: str, descriptors: tuple[int, ...] = ()) -> None:
        if not self._notify:
            return
        address = "\0" + self._notify[1:] if self._notify.startswith("@") else self._notify
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_SECONDS)
            try:
                sock.connect(address)
                sock.sendmsg([text.encode()], rights)
            except OSError as error:
                log.warning("cannot notify the supervisor at %s: %s", self._notify, error)


def inherited(environment: Mapping[str, str]) -> dict[str, list[socket.socket]]:
    """The sockets passed to this process, by name; none where they were meant for another process."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environment.get("LISTEN_FDS", "0"))
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for index in range(count):
        descriptor = FIRST_DESCRIPTOR + index
        os.set_inheritable(descriptor, False)
        name = names[index] if index < len(names) and names[index] else "unknown"
        found.setdefault(name, []).append(socket.socket(fileno=descriptor))
    return found


def run(main: Callable[[Daemon], Awaitable[None]], *, name: str, loop: str = "uvloop") -> int:
    """Run a daemon until it returns or SIGTERM or SIGINT arrives. The exit status comes back: 2 for a mistake in
    what it was given, 1 for what failed.

    ``loop`` is ``uvloop`` or ``asyncio``. An error a person can act on is one line; a bug is a traceback.
    """
    logging.basicConfig(
        level=os.environ.get("NETPLANE_LOG", "INFO").upper(),
        format=f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    factory = uvloop.new_event_loop if loop == "uvloop" else None
    exit_status = 0
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_serve(main, name))
    except* NetplaneError as group:
        errors = _leaves(group)
        for error in errors:
            line = " ".join(str(error).split())
            print(f"netplane {name}: {line}", file=sys.stderr)  # noqa: T201 - the last word of a daemon
        exit_status = 2 if all(isinstance(error, ConfigError) for error in errors) else 1
    return exit_status


async def _serve(main: Callable[[Daemon], Awaitable[None]], name: str) -> None:
    daemon = Daemon(name, inherited(os.environ), _notify=os.environ.get("NOTIFY_SOCKET", ""))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload.set)
    await main(daemon)


def _leaves(group: BaseExceptionGroup[NetplaneError]) -> list[NetplaneError]:
    found: list[NetplaneError] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
