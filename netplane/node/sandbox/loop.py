"""PID 1's loop: answer the agent, reap what ends, carry output into logs.

The protocol is JSON lines on `DIRECTORY/s`: a request is an object with "op", the answer an object with "ok" and, when
that is false, "error". Descriptors ride along by SCM_RIGHTS and are named in order by the request's "fds".

    status                                        -> {"ok": true, "containers": [...], "previous": [...]}
    watch                                         -> a status line now and after every change, until closed
    start  name attempt argv env cwd log uid gid  -> {"ok": true}; fds: cgroup*
    signal name signal all                        -> {"ok": true}; the main process, or its whole process group
    exec   name argv                              -> {"ok": true, "exitCode": n}; fds: stdin stdout stderr cgroup*
    stop                                          -> the sandbox and all that is in it are gone

Closing the connection of an exec kills what it started.
"""

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from netplane.node.sandbox.containers import Command, Container, Output, spawn, start

MAX_REQUEST = 4 * 1024 * 1024
MAX_DESCRIPTORS = 32

Request = dict[str, Any]


class Connection:
    """One connected agent. ``watching`` gets status lines; ``exec_pid`` is what it has running here."""

    __slots__ = ("data", "descriptors", "exec_pid", "socket", "watching")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.data = b""
        self.descriptors: list[int] = []
        self.exec_pid = 0
        self.watching = False

    def take(self) -> list[int]:
        """The descriptors received so far; the caller closes them."""
        taken, self.descriptors = self.descriptors, []
        return taken


class Sandbox:
    """The state of a pod as its PID 1 knows it."""

    def __init__(self, directory: str, listener: socket.socket) -> None:
        self._directory = directory
        self._listener = listener
        self._containers: dict[str, Container] = {}
        self._previous: dict[str, Container] = {}
        self._outputs: dict[int, Output] = {}
        self._connections: dict[int, Connection] = {}
        self._epoll = select.epoll()
        self._operations: dict[str, Callable[[Connection, Request], Request | None]] = {
            "status": lambda connection, request: self._status(),
            "watch": self._watch,
            "start": self._start,
            "signal": self._signal,
            "exec": self._exec,
            "stop": lambda connection, request: os._exit(0),
        }

    def run(self) -> None:
        """Serve for ever."""
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._epoll.register(wake_read, select.EPOLLIN)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == wake_read:
                    os.read(wake_read, 4096)
                elif descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._outputs:
                    self._pump(descriptor)
                elif descriptor in self._connections:
                    self._receive(self._connections[descriptor])
            self._reap()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connected, _ = self._listener.accept()
            connected.setblocking(False)
            self._connections[connected.fileno()] = Connection(connected)
            self._epoll.register(connected.fileno(), select.EPOLLIN)

    def _pump(self, descriptor: int) -> None:
        if not self._outputs[descriptor].pump():  # the closed descriptor left the epoll set by itself
            del self._outputs[descriptor]

    def _receive(self, connection: Connection) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(
                connection.socket, 65536, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        connection.descriptors += descriptors
        connection.data += data
        if not data or len(connection.data) > MAX_REQUEST:
            self._close(connection)
            return
        *lines, connection.data = connection.data.split(b"\n")
        for line in lines:
            self._answer(connection, line)

    def _answer(self, connection: Connection, line: bytes) -> None:
        try:
            request = json.loads(line)
            reply = self._operations[request["op"]](connection, request)
        except (OSError, LookupError, TypeError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
            reply = {"ok": False, "error": text}
        finally:
            for descriptor in connection.take():
                os.close(descriptor)
        if reply is not None:
            self._send(connection, reply)

    def _send(self, connection: Connection, reply: Request) -> None:
        data = json.dumps(reply).encode() + b"\n"
        try:
            sent = connection.socket.send(data)
        except OSError:
            sent = 0
        if sent != len(data):  # an agent that does not read comes back and asks again
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        for descriptor in connection.take():
            os.close(descriptor)
        connection.socket.close()
        if connection.exec_pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(connection.exec_pid, signal.SIGKILL)

    def _status(self) -> Request:
        return {
            "ok": True,
            "containers": [container.state() for container in self._containers.values()],
            "previous": [container.state() for container in self._previous.values()],
        }

    def _watch(self, connection: Connection, request: Request) -> Request:
        connection.watching = True
        return self._status()

    def _changed(self) -> None:
        for connection in list(self._connections.values()):
            if connection.watching:
                self._send(connection, self._status())

    def _start(self, connection: Connection, request: Request) -> Request:
        name = request["name"]
        old = self._containers.get(name)
        if old is not None and old.exit_code is None:
            raise ValueError(f"container {name} is running")
        command = Command(
            request["argv"], request["env"], request["cwd"], request.get("uid"), request.get("gid")
        )
        new = start(name, request["attempt"], command, request["log"], connection.descriptors)
        if old is not None:
            self._previous[name] = old
        self._containers[name] = new
        for output in new.outputs:
            self._outputs[output.fd] = output
            self._epoll.register(output.fd, select.EPOLLIN)
        self._changed()
        return {"ok": True}

    def _signal(self, connection: Connection, request: Request) -> Request:
        container = self._containers[request["name"]]
        if container.exit_code is None:
            send = os.killpg if request.get("all") else os.kill
            with contextlib.suppress(ProcessLookupError):
                send(container.pid, request["signal"])
        return {"ok": True}

    def _exec(self, connection: Connection, request: Request) -> None:
        container = self._containers[request["name"]]
        if container.exit_code is not None:
            raise ValueError(f"container {container.name} is not running")
        if connection.exec_pid:
            raise ValueError("this connection has an exec already")
        stdin, stdout, stderr, *cgroups = connection.descriptors
        command = container.command._replace(argv=request["argv"])
        connection.exec_pid = spawn(command, (stdin, stdout, stderr), cgroups)

    def _reap(self) -> None:
        changed = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            changed |= self._ended(pid, status)
        if changed:
            self._changed()

    def _ended(self, pid: int, status: int) -> bool:
        """Whether a container ended; an exec's end is answered, an orphan's is of no interest."""
        for container in self._containers.values():
            if container.pid == pid and container.exit_code is None:
                for output in container.outputs:
                    if output.fd in self._outputs:
                        self._pump(output.fd)  # its last words are in the log before its end is told
                container.end(status, self._directory)
                return True
        for connection in list(self._connections.values()):
            if connection.exec_pid == pid:
                connection.exec_pid = 0
                code = os.waitstatus_to_exitcode(status)
                self._send(connection, {"ok": True, "exitCode": 128 - code if code < 0 else code})
        return False
