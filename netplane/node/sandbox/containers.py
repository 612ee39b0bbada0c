"""Starting a container's process, and what is remembered of it: its log, its state, its end.

A container is a session of its own within the pod's namespaces. Its output goes line by line into a file in the
CRI log format; its end goes into a file too, so that it is known even when nobody was there to see it.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LOG_LIMIT = 10 * 1024 * 1024  # bytes in one log file before it is rotated; kubelet's containerLogMaxSize
LINE_LIMIT = 16 * 1024  # bytes of one log entry; a longer line becomes several, tagged P but the last
READ_SIZE = 64 * 1024


class Command(NamedTuple):  # not a dataclass: importing those costs each pod 15 ms and 3 MB
    """What to execute: a program with its arguments, its whole environment, and as whom."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    uid: int | None = None
    gid: int | None = None


def spawn(command: Command, stdio: tuple[int, int, int], cgroups: Sequence[int]) -> int:
    """Fork and execute; the process leads its own session and is in the cgroups from its first instruction.

    ``cgroups`` are open descriptors of `cgroup.procs` files. Returns the pid. Raises OSError with the child's errno
    when it could not get as far as the program.
    """
    report, failed = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become(command, stdio, cgroups)
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


def _become(command: Command, stdio: tuple[int, int, int], cgroups: Sequence[int]) -> None:
    os.setsid()
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
    """One stream of a container on its way from a pipe into the log."""

    def __init__(self, fd: int, name: str, log: LogFile) -> None:
        self.fd, self.name, self._log = fd, name, log
        self._rest = b""
        os.set_blocking(fd, False)

    def pump(self) -> bool:
        """Move what has come. False once the pipe has ended, and is closed."""
        while True:
            try:
                data = os.read(self.fd, READ_SIZE)
            except BlockingIOError:
                return True
            entries, self._rest = split(self._rest + data, ended=not data)
            if entries:
                self._log.write(self.name, entries)
            if not data:
                os.close(self.fd)
                return False


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


class Container:
    """One attempt at running a container."""

    __slots__ = (
        "attempt", "command", "exit_code", "finished", "log", "name", "outputs", "pid", "signal", "started",
    )  # fmt: skip

    def __init__(self, name: str, attempt: int, command: Command, pid: int, log: LogFile) -> None:
        self.name, self.attempt, self.command, self.pid, self.log = name, attempt, command, pid, log
        self.started = time.time_ns()
        self.outputs: list[Output] = []
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
        path = f"{directory}/{self.name}.{self.attempt}.exit"
        with contextlib.suppress(OSError), open(path + ".new", "w") as file:  # noqa: PTH123
            json.dump(self.state(), file)
            os.rename(path + ".new", path)  # noqa: PTH104


def start(name: str, attempt: int, command: Command, log_path: str, cgroups: Sequence[int]) -> Container:
    """Run a container with its output going to the log. Raises OSError when its program cannot be executed."""
    log = LogFile(log_path)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        pid = spawn(command, (null, out_write, err_write), cgroups)
    except OSError as error:
        log.write("stderr", [(str(error.strerror).encode(), True)])
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        for descriptor in (null, out_write, err_write):
            os.close(descriptor)
    container = Container(name, attempt, command, pid, log)
    container.outputs = [Output(out_read, "stdout", log), Output(err_read, "stderr", log)]
    return container
