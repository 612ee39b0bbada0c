"""The life of one daemon under supervision: started, ready, ended, started again.

One task per daemon runs `keep` for as long as the supervisor lives. Everything else (the control
socket, the end of the supervisor) only says what is wanted and waits.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from socket import socket
from typing import Any

from netplane.errors import ConfigError
from netplane.node.supervise import logs, notify, process
from netplane.node.supervise.notify import Held, Notice, Store
from netplane.node.supervise.process import Reaper

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where a daemon is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"  # and it has said that it is ready
    WAITING = "waiting"  # it ended, and is started again after a delay


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """One entry of `daemons` in supervise.yaml; `listeners` names inherited sockets that it receives."""

    name: str
    command: tuple[str, ...]
    listeners: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    stop_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not self.name or not all(letter.isalnum() or letter == "-" for letter in self.name):
            raise ConfigError(f"cannot supervise {self.name!r}: a daemon's name is letters, digits and '-'")
        if not self.command:
            raise ConfigError(f"cannot supervise {self.name}: its command is empty")


@dataclass(frozen=True, slots=True)
class Report:
    """What `status` tells of a daemon."""

    name: str
    state: State
    pid: int | None
    restarts: int
    descriptors: int
    status: str
    last_exit: int | None
    log: str

    def as_json(self) -> dict[str, Any]:
        """With the API's spelling of names."""
        fields = asdict(self)
        fields["lastExit"] = fields.pop("last_exit")
        return fields


class Supervised:
    """A daemon, what is wanted of it and what it is."""

    def __init__(
        self,
        settings: DaemonSettings,
        *,
        log_file: Path,
        notify: Path,
        inherited: list[Held],
        environment: Mapping[str, str],
        reaper: Reaper,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._log_file = log_file
        self._notify_path = notify
        self._inherited = inherited
        self._environment = {**environment, **settings.environment}
        self._reaper = reaper
        self._on_change = on_change
        self._store = Store()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._state = State.STARTING
        self._pid: int | None = None
        self._restarts = 0
        self._failures = 0
        self._status = ""
        self._last_exit: int | None = None

    def report(self) -> Report:
        """What it is now."""
        return Report(
            name=self.name,
            state=self._state,
            pid=self._pid,
            restarts=self._restarts,
            descriptors=len(self._store.held()),
            status=self._status,
            last_exit=self._last_exit,
            log=str(self._log_file),
        )

    async def keep(self) -> None:
        """Keep the daemon running whenever it is wanted, until cancelled."""
        listener = notify.open_socket(self._notify_path)
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._hear, listener)
        try:
            while True:
                await self._wanted.wait()
                await self._live()
                if self._wanted.is_set():
                    await self._pause()
        finally:
            loop.remove_reader(listener)
            listener.close()
            self._notify_path.unlink(missing_ok=True)
            self._store.close()

    async def _live(self) -> None:
        """One life: from start to end. A start that the kernel refuses (no memory, no process) is a short life."""
        self._ended.clear()
        self._become(State.STARTING)
        began = time.monotonic()
        try:
            self._pid = self._spawn()
            log.info("started %s, pid %d", self.name, self._pid)
            self._last_exit = await self._reaper.expect(self._pid)
        except OSError as error:
            log.error("cannot start %s: %s", self.name, error)
            self._last_exit = None
        finally:
            self._pid = None
            self._status = ""
            self._ended.set()
        ran = time.monotonic() - began
        self._failures = 0 if ran >= process.STEADY else self._failures + 1
        log.info("%s ended with %s after %.1f s", self.name, self._last_exit, ran)
        self._become(State.WAITING if self._wanted.is_set() else State.STOPPED)

    def _spawn(self) -> int:
        output = logs.open_for_append(self._log_file)
        try:
            return process.spawn(
                self._settings.command,
                output=output,
                held=[*self._inherited, *self._store.held()],
                notify=self._notify_path,
                environment=self._environment,
            )
        finally:
            os.close(output)

    async def _pause(self) -> None:
        """Wait out the back-off, unless what is wanted changes first."""
        self._restarts += 1
        delay = process.restart_delay(0.0, self._failures - 1) if self._failures else 0.0
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):  # not wait_for: before 3.12 it can swallow a cancellation
                await self._changed.wait()

    def _become(self, state: State) -> None:
        self._state = state
        self._on_change()

    def _hear(self, listener: socket) -> None:
        while (heard := notify.receive(listener)) is not None:
            notice, fds = heard
            try:
                self._heed(notice, fds)
            except OSError as error:
                log.error("cannot keep what %s sent: %s", self.name, error)
            finally:
                for fd in fds:  # also what came without FDSTORE=1: closing it is the answer to BARRIER=1
                    os.close(fd)

    def _heed(self, notice: Notice, fds: list[int]) -> None:
        if notice.ready and self._pid is not None:
            self._become(State.RUNNING)
        if notice.status is not None:
            self._status = notice.status
        if notice.store:
            self._store.add(notice.name, fds)
        if notice.remove:
            self._store.remove(notice.name)

    def start(self) -> None:
        """Want it running; at once, whatever the back-off."""
        self._failures = 0
        self._wanted.set()
        self._changed.set()

    async def stop(self) -> None:
        """Want it stopped: SIGTERM, then SIGKILL after its `stop_seconds`; returns when it has ended.

        Only the daemon's own process is signalled: what it has started to outlive it does.
        """
        self._wanted.clear()
        self._changed.set()
        if self._pid is not None:
            process.send(self._pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(self._settings.stop_seconds):
                    await self._ended.wait()
            except TimeoutError:
                log.warning("%s did not end within %s s: killed", self.name, self._settings.stop_seconds)
                if self._pid is not None:
                    process.send(self._pid, signal.SIGKILL)
                await self._ended.wait()
        self._become(State.STOPPED)

    def signal(self, number: int) -> None:
        """Send a signal; an end that follows is an accident to recover from, not a wish to stop."""
        if self._pid is None:
            raise ConfigError(f"cannot signal {self.name}: it is {self._state}")
        process.send(self._pid, number)
