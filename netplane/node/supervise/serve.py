"""PID 1 of a node: starts its daemons, starts them again when they end, and keeps their descriptors.

It speaks systemd's protocols (LISTEN_FDS, NOTIFY_SOCKET, FDSTORE), so a daemon is the same program in a
lab node, under `netplane up` and under systemd. It decides nothing about pods or Services and keeps no
state on disk: what it holds is processes and descriptors. As PID 1 of a PID namespace its death is the
node's loss of power; as an ordinary process its SIGTERM stops the daemons and leaves the pods running.
"""

import asyncio
import fcntl
import logging
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from netplane.config import Paths
from netplane.errors import ConfigError
from netplane.node.supervise import control, logs
from netplane.node.supervise.control import Answer
from netplane.node.supervise.daemon import DaemonSettings, State, Supervised
from netplane.node.supervise.notify import Held, Store
from netplane.node.supervise.process import Reaper
from netplane.runner import Daemon

log = logging.getLogger(__name__)

LOOK_AT_LOGS = 2.0
SOCKET_PATH_BYTES = 107  # struct sockaddr_un, unix(7), less the byte that ends it


@dataclass(frozen=True, slots=True)
class Settings:
    """supervise.yaml."""

    root: Path
    daemons: tuple[DaemonSettings, ...] = ()

    def __post_init__(self) -> None:
        names = [daemon.name for daemon in self.daemons]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"cannot supervise daemons: there are two named {name!r}")


def log_file(root: Path, name: str) -> Path:
    """Where the daemon `name` of the node at `root` writes."""
    return Paths(root).logs / f"{name}.log"


async def serve(settings: Settings, daemon: Daemon) -> None:
    """Run the node's daemons until told to stop, then stop them, the last started first."""
    run = Paths(settings.root).run
    for path in (
        Paths(settings.root).supervise_socket,
        *(_notify(run, one.name) for one in settings.daemons),
    ):
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            cause = f"{path} is longer than the {SOCKET_PATH_BYTES} bytes that a socket's path may have"
            raise ConfigError(f"cannot supervise {settings.root}: {cause}", "Choose a shorter --root")
    run.mkdir(parents=True, exist_ok=True)
    lock = _lock(run / "supervise.lock")
    _raise_descriptor_limit()
    inherited = _inherited(daemon)
    try:
        with Reaper() as reaper:
            children = [_supervised(one, settings.root, inherited, reaper) for one in settings.daemons]
            await _Supervisor(settings.root, children).serve(daemon)
    finally:
        os.close(lock)


class _Supervisor:
    """All daemons of a node, in the order they are started."""

    def __init__(self, root: Path, children: list[Supervised]) -> None:
        self._root = root
        self._children = {child.name: child for child in children}

    async def serve(self, daemon: Daemon) -> None:
        listener = control.listen(Paths(self._root).supervise_socket)
        server = await control.answer(listener, self.respond)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(child.keep(), name=name) for name, child in self._children.items()]
            running.append(tasks.create_task(self._watch_logs(), name="logs"))
            running.append(tasks.create_task(self._pass_on_reload(daemon), name="reload"))
            daemon.ready(f"supervising {', '.join(self._children) or 'nothing'}")
            await daemon.stopping.wait()
            for child in reversed(self._children.values()):
                await child.stop()
            for task in running:
                task.cancel()
        server.close()
        Paths(self._root).supervise_socket.unlink(missing_ok=True)

    async def _watch_logs(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_LOGS)
            for name in (*self._children, "supervise"):
                logs.rotate(log_file(self._root, name))

    async def _pass_on_reload(self, daemon: Daemon) -> None:
        """SIGHUP is for the daemons: each reads its own files again."""
        while True:
            await daemon.reload.wait()
            daemon.reload.clear()
            for child in self._children.values():
                if child.report().state is State.RUNNING:
                    child.signal(signal.SIGHUP)

    async def respond(self, request: Answer) -> Answer:
        """Carry out one request of the control socket."""
        operation = request.get("op")
        if operation == "status":
            return {"pid": os.getpid(), "daemons": [c.report().as_json() for c in self._children.values()]}
        child = self._child(request.get("daemon"))
        if operation == "start":
            child.start()
        elif operation == "stop":
            await child.stop()
        elif operation == "restart":
            await child.stop()
            child.start()
        elif operation == "kill":
            child.signal(_signal_number(request.get("signal", signal.SIGKILL)))
        else:
            raise ConfigError(
                f"cannot carry out {operation!r}: no such operation",
                hint="status, start, stop, restart and kill are",
            )
        return {}

    def _child(self, name: object) -> Supervised:
        try:
            return self._children[str(name)]
        except KeyError:
            known = ", ".join(self._children) or "none"
            raise ConfigError(f"cannot find the daemon {name!r}: supervised here are {known}") from None


def _signal_number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < signal.NSIG:
        return value
    raise ConfigError(f"cannot send the signal {value!r}: it is a number from 1 to {signal.NSIG - 1}")


def _supervised(
    settings: DaemonSettings, root: Path, inherited: dict[str, list[Held]], reaper: Reaper
) -> Supervised:
    missing = [name for name in settings.listeners if name not in inherited]
    if missing:
        raise ConfigError(
            f"cannot start {settings.name}: the listener {missing[0]!r} was not passed to the supervisor",
            hint="it comes by LISTEN_FDS and LISTEN_FDNAMES",
        )
    return Supervised(
        settings,
        log_file=log_file(root, settings.name),
        notify=_notify(Paths(root).run, settings.name),
        inherited=[held for name in settings.listeners for held in inherited[name]],
        environment={"NETPLANE_ROOT": str(root)},
        reaper=reaper,
    )


def _notify(run: Path, name: str) -> Path:
    """Where a daemon says how it is."""
    return run / f"notify-{name}.sock"


def _inherited(daemon: Daemon) -> dict[str, list[Held]]:
    """The sockets passed to us, by name; kept by us for as long as we live."""
    store = Store()
    for name, sockets in daemon.listeners.items():
        store.add(name, [one.fileno() for one in sockets])
    held: dict[str, list[Held]] = {}
    for one in store.held():
        held.setdefault(one.name, []).append(one)
    return held


def _lock(path: Path) -> int:
    """Hold the node: a second supervisor on one root would start everything twice."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"cannot supervise {path.parent}: another supervisor runs there") from None
    return descriptor


def _raise_descriptor_limit() -> None:
    """A proxy needs descriptors by the thousand: daemons inherit the most that we may have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
