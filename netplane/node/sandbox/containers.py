"""Starting a container's process, and what is remembered of it: its log, its state, its end.

A container is a session of its own within the pod's namespaces. Its output goes line by line into a file in the
CRI log format; its end goes into a file too, so that it is known even when nobody was there to see it.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from netplane.node.sandbox.attaching import Sink

LOG_LIMIT = 10 * 1024 * 1024  # bytes in one log file before it is rotated; kubelet's containerLogMaxSize
LINE_LIMIT = 16 * 1024  # bytes of one log entry; a longer line becomes several, tagged P but the last
READ_SIZE = 64 * 1024
TIOCSCTTY = 0x540E


class Command(NamedTuple):  # not a dataclass: importing those costs each pod 15 ms and 3 MB
    """What to execute: a program with its arguments, its whole environment, and as whom."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    uid: int | None = None
    gid: int | None = None


def spawn(command: Command, stdio: tuple[int, int, int], cgroups: Sequence[int], *, tty: bool = False) -> int:
    """Fork and execute; the process leads its own session and is in the cgroups from its first instruction.

    ``cgroups`` are open descriptors of `cgroup.procs` files. With ``tty``, stdio is a terminal's slave side, which
    becomes the session's terminal. Returns the pid. Raises OSError with the child's errno when it could not get as
    far as the program.
    """
    report, failed = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become(command, stdio, cgroups, tty=tty)
        except OSError as error:
            os.write(failed, f"{error.errno or 0} {error.strerror or error}".encode())
        except BaseException as error:  # noqa: BLE001 - the child must never return into the parent's loop
            os.write(failed, f"0 {error}".encode())
        os._exit(127)
    os.close(failed)
    with open(report, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        problem = pipe.read()
    if problem:
        os.waitpid(pid, 0)
        number, _, text = problem.decode("utf-8", "replace").partition(" ")
        raise OSError(int(number), text)
    return pid


def spawn_on_terminal(command: Command, cgroups: Sequence[int]) -> tuple[int, int]:
    """`spawn` with a terminal of its own: the pid, and the terminal's master side. Raises OSError."""
    master, slave = os.openpty()
    try:
        environment = {"TERM": "xterm", **command.env}
        return spawn(command._replace(env=environment), (slave, slave, slave), cgroups, tty=True), master
    except OSError:
        os.close(master)
        raise
    finally:
        os.close(slave)


def _become(command: Command, stdio: tuple[int, int, int], cgroups: Sequence[int], *, tty: bool) -> None:
    os.setsid()
    if tty:
        fcntl.ioctl(stdio[0], TIOCSCTTY, 0)
        if command.uid is not None:
            os.fchown(stdio[0], command.uid, -1)
    for descriptor in cgroups:
        os.write(descriptor, b"0")
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # Through copies above 2, so that no dup2 overwrites a descriptor that is still to be copied.
    sources = [os.dup(descriptor) for descriptor in stdio]
    for target, source in enumerate(sources):
        os.dup2(source, target)
    os.umask(0o022)
    _chdir(command.cwd)
    if command.gid is not None:
        os.setgroups([])
        os.setgid(command.gid)
    if command.uid is not None:
        os.setuid(command.uid)
    try:
        os.execvpe(command.argv[0], list(command.argv), dict(command.env))
    except OSError as error:
        raise OSError(error.errno, f"cannot run {command.argv[0]}: {error.strerror}") from None


def _chdir(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot change to workingDir {path}: {error.strerror}") from None


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 with nanoseconds, as the CRI log format has it."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


class LogFile:
    """A container's log: `TIME STREAM F|P TEXT` lines, rotated to `PATH.1`. Source: CRI, "container log format"."""

    def __init__(self, path: str) -> None:
        self.path = path
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - pathlib costs 2 MB per pod

    def write(self, stream: str, lines: Sequence[tuple[bytes, bool]]) -> None:
        """Append entries (text, whole?). A full or broken disk loses lines; it never stops a container.

        The file is opened for each write, so that no attempt ever leaves a descriptor behind in PID 1.
        """
        stamp = timestamp(time.time_ns())
        data = b"".join(
            f"{stamp} {stream} {'F' if whole else 'P'} ".encode() + text + b"\n" for text, whole in lines
        )
        with contextlib.suppress(OSError):
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            try:
                os.write(fd, data)
                if os.fstat(fd).st_size > LOG_LIMIT:
                    os.rename(self.path, self.path + ".1")  # noqa: PTH104
            finally:
                os.close(fd)


class Output:
    """One stream of a container on its way from a pipe or a terminal into the log, and to who watches it."""

    def __init__(self, fd: int, name: str, log: LogFile) -> None:
        self.fd, self.name, self._log = fd, name, log
        self.sinks: list[Sink] = []
        self._rest = b""
        os.set_blocking(fd, False)

    @property
    def waiting(self) -> bool:
        """Whether a watcher has yet to take what was read."""
        return any(sink.pending for sink in self.sinks)

    def pump(self, reads: int = 4, *, wait: bool = True) -> bool:
        """Move what has come. False once the stream has ended; the caller closes it. ``wait`` for watchers that lag.

        ``reads`` keeps a container that writes without end from being all that PID 1 attends to.
        """
        for _ in range(reads):
            if wait and self.waiting:
                break
            try:
                data = os.read(self.fd, READ_SIZE)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.EIO:  # which is how a terminal says that nobody is on its other side
                    raise
                data = b""
            entries, self._rest = split(self._rest + data, ended=not data)
            if entries:
                self._log.write(self.name, entries)
            if not data:
                return False
            for sink in list(self.sinks):
                if not sink.offer(data):
                    self.drop(sink)
        return True

    def drop(self, sink: Sink) -> None:
        """This watcher gets no more."""
        self.sinks.remove(sink)
        os.close(sink.fd)


def split(data: bytes, *, ended: bool) -> tuple[list[tuple[bytes, bool]], bytes]:
    """Cut bytes into log entries (text, whole?) and the rest that waits for its newline."""
    *lines, rest = data.split(b"\n")
    entries: list[tuple[bytes, bool]] = []
    for line in lines:
        while len(line) > LINE_LIMIT:
            entries.append((line[:LINE_LIMIT], False))
            line = line[LINE_LIMIT:]
        entries.append((line, True))
    while len(rest) > LINE_LIMIT:
        entries.append((rest[:LINE_LIMIT], False))
        rest = rest[LINE_LIMIT:]
    if ended and rest:
        entries.append((rest, True))
        rest = b""
    return entries, rest


class Stdio(NamedTuple):
    """What a container wants besides a log: a stdin that is kept open (``once``: for one who attaches), a terminal."""

    stdin: bool = False
    once: bool = False
    tty: bool = False


class Container:
    """One attempt at running a container."""

    __slots__ = (
        "attempt", "command", "exit_code", "finished", "input", "log", "name", "outputs", "pid", "signal", "started",
        "stdio",
    )  # fmt: skip

    def __init__(self, name: str, attempt: int, command: Command, pid: int, log: LogFile) -> None:
        self.name, self.attempt, self.command, self.pid, self.log = name, attempt, command, pid, log
        self.started = time.time_ns()
        self.outputs: list[Output] = []
        self.input = (
            -1
        )  # the side of its stdin that is written to; -1 when it has none, or it has been handed over
        self.stdio = Stdio()
        self.finished = 0
        self.exit_code: int | None = None
        self.signal = 0

    def state(self) -> dict[str, Any]:
        """As the agent reads it."""
        return {
            "name": self.name,
            "attempt": self.attempt,
            "running": self.exit_code is None,
            "startedAt": self.started,
            "finishedAt": self.finished,
            "exitCode": self.exit_code,
            "signal": self.signal,
        }

    def end(self, wait_status: int, directory: str) -> None:
        """Note how it ended, also in a file. Shells' convention: killed by signal n is exit code 128 + n."""
        code = os.waitstatus_to_exitcode(wait_status)
        self.signal = -code if code < 0 else 0
        self.exit_code = 128 - code if code < 0 else code
        self.finished = time.time_ns()
        self.close_input()
        path = f"{directory}/{self.name}.{self.attempt}.exit"
        with contextlib.suppress(OSError), open(path + ".new", "w") as file:  # noqa: PTH123
            json.dump(self.state(), file)
            os.rename(path + ".new", path)  # noqa: PTH104

    def close_input(self) -> None:
        """What its stdin has been given is all there will be, unless somebody else holds the other side, too."""
        if self.input >= 0:
            os.close(self.input)
            self.input = -1


def start(
    name: str, attempt: int, command: Command, log_path: str, cgroups: Sequence[int], stdio: Stdio
) -> Container:
    """Run a container with its output going to the log. Raises OSError when its program cannot be executed."""
    log = LogFile(log_path)
    try:
        if stdio.tty:
            pid, master = spawn_on_terminal(command, cgroups)
            streams, opened = [(master, "stdout")], os.dup(master)
        else:
            pid, streams, opened = _spawn_on_pipes(command, cgroups, stdin=stdio.stdin)
    except OSError as error:
        log.write("stderr", [(str(error.strerror).encode(), True)])
        raise
    container = Container(name, attempt, command, pid, log)
    container.stdio, container.input = stdio, opened
    container.outputs = [Output(fd, stream, log) for fd, stream in streams]
    return container


def _spawn_on_pipes(
    command: Command, cgroups: Sequence[int], *, stdin: bool
) -> tuple[int, list[tuple[int, str]], int]:
    """The pid, its outputs, and the writing side of its stdin (-1 without). Raises OSError."""
    in_read, in_write = os.pipe() if stdin else (os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), -1)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        pid = spawn(command, (in_read, out_write, err_write), cgroups)
    except OSError:
        for descriptor in (out_read, err_read, *([in_write] if stdin else [])):
            os.close(descriptor)
        raise
    finally:
        for descriptor in (in_read, out_write, err_write):
            os.close(descriptor)
    return pid, [(out_read, "stdout"), (err_read, "stderr")], in_write
