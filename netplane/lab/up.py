"""Makes a lab and waits until it is whole; on any failure or interruption nothing of it stays.

The only thing made outside the lab's own namespaces is one listening socket on the caller's 127.0.0.1, which
is passed down to the API server.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from netplane.errors import ConfigError, NetplaneError, PeerError, cause_of
from netplane.kube.client import Client
from netplane.kube.kubeconfig import Kubeconfig
from netplane.kube.objects import condition, name_of
from netplane.kube.resources import NODES
from netplane.lab import down, files, place
from netplane.lab.power import KEEP, LIFELINE, joining
from netplane.lab.spec import API_PORT, LabSpec, Machine
from netplane.node.supervise import control as supervisor
from netplane.node.supervise import logs, process
from netplane.node.supervise.files import API_LOOPBACK
from netplane.node.supervise.notify import Held

Say = Callable[[str], None]

READY_SECONDS = 60.0
POLL_SECONDS = 0.1
HOPELESS_RESTARTS = 6  # with the supervisor's back-off that is some ten seconds
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Action = Callable[[int, FrameType | None], None] | signal.Handlers
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")


@dataclass(frozen=True, slots=True)
class Started:
    """A lab whose processes run, and which ends with us until it is told to stay."""

    pid: int
    lifeline: socket.socket


def up(
    spec: LabSpec,
    *,
    say: Say = lambda _text: None,
    keep_failed: bool = False,
    final: bool = False,
) -> None:
    """Make the lab and wait until every node is Ready.

    Raises ConfigError if it is there already, and whatever made it fail or interrupted it; then nothing of it
    is left, unless `keep_failed`. A lab that is whole stays: with `final`, for callers who end next, signals
    are ignored from then on, so that "interrupted" always means "removed".
    """
    if os.geteuid() != 0:
        raise ConfigError(f"cannot make lab {spec.name}: namespaces need root", "Run it with sudo")
    interruption = _Interruption()
    with _signals(interruption, keep=final), place.locked(spec.directory, wait=0.0) as held:
        if not held:
            raise ConfigError(f"cannot make lab {spec.name}: another command is making or removing it")
        if place.is_alive(spec.directory):
            raise ConfigError(
                f"cannot make lab {spec.name}: it is up already",
                f"netplane lab down --name {spec.name} removes it",
            )
        try:
            interruption.allow()
            _make(spec, say, keep_failed=keep_failed)
        except BaseException:
            if keep_failed:
                raise
            with _signals(signal.SIG_IGN):
                say("removing what was made")
                down.remove(spec.directory)
            raise


def _clear_remains(spec: LabSpec, say: Say) -> None:
    """A lab of that name that died: nothing of it may meet the new one."""
    say("clearing the place")
    down.end_processes(spec.directory)
    for cgroup in place.cgroups(spec.directory):
        cgroup.remove()
    for path in sorted(spec.directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _make(spec: LabSpec, say: Say, *, keep_failed: bool) -> None:
    _clear_remains(spec, say)
    say("making certificates and settings")
    with _api_listener() as listener:
        files.write(spec, listener.getsockname()[1])
        say("giving power to the machines")
        started = _start(spec, listener)
    stays = keep_failed
    try:
        asyncio.run(_whole(spec, started, say))
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stays = True
    except NetplaneError as error:
        raise _with_last_words(error, spec) from None
    finally:
        if stays:
            started.lifeline.sendall(KEEP)
        started.lifeline.close()


def _api_listener() -> socket.socket:
    """6443 if it is free: it is what people expect; else any other."""
    for port in (API_PORT, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1024)
        except OSError as error:
            listener.close()
            if port == 0:
                raise PeerError(f"cannot listen on 127.0.0.1: {cause_of(error)}") from error
        else:
            return listener
    raise AssertionError


def _start(spec: LabSpec, listener: socket.socket) -> Started:
    """The lab's PID 1: in the lab's cgroup from the first moment, so that `lab down` finds it whatever happens."""
    cgroup = place.lab_cgroup(spec.directory)
    cgroup.create()
    ours, theirs = socket.socketpair()
    output = logs.open_for_append(place.log_of(spec.directory))
    command = [
        *joining([str(path) for path in cgroup.procs]),
        *("unshare", *NAMESPACES, "--"),
        *(sys.executable, "-m", "netplane.lab.power", str(spec.directory)),
    ]
    held = [Held(API_LOOPBACK, listener.fileno()), Held(LIFELINE, theirs.fileno())]
    try:
        pid = process.spawn(command, output=output, held=held, init=True, tied=False)
    finally:
        os.close(output)
        theirs.close()
    return Started(pid, ours)


async def _whole(spec: LabSpec, started: Started, say: Say) -> None:
    """Wait until all daemons run and all nodes are Ready. Raises PeerError naming what is not or never will be."""
    deadline = time.monotonic() + READY_SECONDS
    kubeconfig = Kubeconfig.load(place.outside_kubeconfig(spec.directory))
    async with Client(kubeconfig, user_agent="netplane-lab") as client:
        while True:
            if _has_ended(started.pid):
                raise PeerError(f"cannot make lab {spec.name}: its PID 1 has ended")
            missing = await asyncio.to_thread(_first_not_running, spec) or await _first_not_ready(
                spec, client
            )
            if missing is None:
                return
            if time.monotonic() > deadline:
                raise PeerError(f"cannot make lab {spec.name}: after {READY_SECONDS:.0f} s still {missing}")
            say(missing)
            await asyncio.sleep(POLL_SECONDS)


def _has_ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG) != (0, 0)


def _first_not_running(spec: LabSpec) -> str | None:
    for machine in spec.machines:
        try:
            answer = supervisor.ask(machine.paths.supervise_socket, {"op": "status"})
        except PeerError:
            return f"waiting for {machine.name} to boot"
        for daemon in answer["daemons"]:
            if daemon["state"] != "running" and daemon["restarts"] >= HOPELESS_RESTARTS:
                raise PeerError(
                    f"cannot make lab {spec.name}: {daemon['name']} on {machine.name} does not start,"
                    f" {daemon['restarts']} times tried again"
                )
            if daemon["state"] != "running":
                again = f", started {daemon['restarts']} times again" if daemon["restarts"] else ""
                return f"waiting for {daemon['name']} on {machine.name} ({daemon['state']}{again})"
    return None


async def _first_not_ready(spec: LabSpec, client: Client) -> str | None:
    try:
        nodes = {name_of(node): node for node in (await client.list(NODES)).items}
    except NetplaneError as error:
        return f"waiting for the API server ({error})"
    for machine in spec.machines:
        if machine.is_master:
            continue
        ready = condition(nodes[machine.name], "Ready") if machine.name in nodes else None
        if ready is None or ready.get("status") != "True":
            why = str((ready or {}).get("message") or "not registered yet")
            return f"waiting for node {machine.name} to be Ready ({why})"
    return None


def _with_last_words(error: NetplaneError, spec: LabSpec) -> NetplaneError:
    """The logs go with the lab: what the daemons that do not run said last belongs into the error."""
    words = [
        f"{machine.name}/{path.stem}: {line}"
        for machine in spec.machines
        for path in sorted(machine.paths.logs.glob("*.log"))
        if (line := _last_failure(machine, path))
    ] or logs.tail(place.log_of(spec.directory), 1)
    hint = "Last words: " + " | ".join(words[:3])
    return type(error)(error.message, f"{error.hint} {hint}".strip() if words else error.hint)


def _last_failure(machine: Machine, path: Path) -> str:
    """The last line of a daemon that does not run, or nothing."""
    try:
        answer = supervisor.ask(machine.paths.supervise_socket, {"op": "status"}, timeout=1.0)
    except PeerError:
        answer = {"daemons": []}
    running = {daemon["name"] for daemon in answer["daemons"] if daemon["state"] == "running"}
    lines = logs.tail(path, 1)
    return lines[0][:300] if lines and path.stem not in running and path.stem != "supervise" else ""


class _Interruption:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does: with time to clean up.

    Not before it is allowed: until then something may be there already that nobody would remove.
    """

    def __init__(self) -> None:
        self._allowed = False
        self._came = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if self._allowed:
            raise KeyboardInterrupt

    def allow(self) -> None:
        """From now on, and if one came before, now. Raises KeyboardInterrupt."""
        self._allowed = True
        if self._came:
            raise KeyboardInterrupt


@contextmanager
def _signals(action: Action, *, keep: bool = False) -> Iterator[None]:
    """`action` for what ends a command, inside the block; afterwards as before, unless `keep` and all went well."""
    before = {number: signal.signal(number, action) for number in SIGNALS}
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        if not (keep and succeeded):
            for number, former in before.items():
                signal.signal(number, former)
