"""PID 1's loop: answer the agent, reap what ends, carry output into logs.

The protocol is JSON lines on `DIRECTORY/s`: a request is an object with "op", the answer an object with "ok" and, when
that is false, "error". Descriptors ride along by SCM_RIGHTS and are named in order by the request's "fds".

    status                                        -> {"ok": true, "containers": [...], "previous": [...]}
    watch                                         -> a status line now and after every change, until closed
    start  name attempt argv env cwd log uid gid stdin stdinOnce tty  -> {"ok": true}; fds: cgroup*
    signal name signal all                        -> {"ok": true}; the main process, or its whole process group
    exec   name argv                              -> {"ok": true, "exitCode": n}; fds: stdin stdout stderr cgroup*
    exec   name argv tty=true  -> {"ok": true, "tty": true} with the terminal's master side, then as above; fds: cgroup*
    attach name stdin          -> {"ok": true, "tty": bool} with its terminal's master side, or the writing side of its
                                  stdin if that is wanted and kept; fds: stdout stderr, which get its output from now
                                  on; {"ok": true, "exitCode": n} at its end
    stop                                          -> the sandbox and all that is in it are gone

Closing the connection of an exec kills what it started; that of an attach detaches.
"""

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from netplane.node.sandbox.attaching import Sink
from netplane.node.sandbox.containers import (
    Command,
    Container,
    Output,
    Stdio,
    spawn,
    spawn_on_terminal,
    start,
)

MAX_REQUEST = 4 * 1024 * 1024
MAX_DESCRIPTORS = 32
LAST_READS = 16  # of 64 KiB: as much as a pipe may hold when its container ends

Request = dict[str, Any]


class Connection:
    """One connected agent. ``watching`` gets status lines; ``exec_pid`` is what it has running here; ``attached``
    is the container that it is attached to.
    """

    __slots__ = ("attached", "data", "descriptors", "exec_pid", "socket", "watching")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.data = b""
        self.descriptors: list[int] = []
        self.exec_pid = 0
        self.attached: Container | None = None
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
        self._lagging: dict[int, tuple[Output, Sink]] = {}  # sinks that wait for room, by descriptor
        self._connections: dict[int, Connection] = {}
        self._epoll = select.epoll()
        self._operations: dict[str, Callable[[Connection, Request], Request | None]] = {
            "status": lambda connection, request: self._status(),
            "watch": self._watch,
            "start": self._start,
            "signal": self._signal,
            "exec": self._exec,
            "attach": self._attach,
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
            for descriptor, _ in self._epoll.poll(1.0 if self._lagging else None):
                if descriptor == wake_read:
                    os.read(wake_read, 4096)
                elif descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._outputs:
                    self._pump(self._outputs[descriptor])
                elif descriptor in self._lagging:
                    self._push(*self._lagging[descriptor])
                elif descriptor in self._connections:
                    self._receive(self._connections[descriptor])
            self._reap()
            for output, sink in list(self._lagging.values()):
                if sink.stalled:
                    self._drop(output, sink)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connected, _ = self._listener.accept()
            connected.setblocking(False)
            self._connections[connected.fileno()] = Connection(connected)
            self._epoll.register(connected.fileno(), select.EPOLLIN)

    def _pump(self, output: Output, reads: int = 4, *, wait: bool = True) -> None:
        watched = list(output.sinks)
        if not output.pump(reads, wait=wait):
            self._finish(output)
            # Explicitly: who attached to a terminal holds it too, and then closing does not end the registration.
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(output.fd)
            del self._outputs[output.fd]
            os.close(output.fd)
            return
        for sink in watched:
            self._settle(output, sink)

    def _push(self, output: Output, sink: Sink) -> None:
        """A watcher may have room again."""
        if sink.flush():
            self._settle(output, sink)
        else:
            self._drop(output, sink)

    def _drop(self, output: Output, sink: Sink) -> None:
        if self._lagging.pop(sink.fd, None) is not None:
            self._epoll.unregister(sink.fd)
        output.drop(sink)
        self._settle(output, sink)

    def _settle(self, output: Output, sink: Sink) -> None:
        """Wait for the watcher to read, or for the container to write, never for both."""
        lagging = sink in output.sinks and bool(sink.pending)
        if lagging and sink.fd not in self._lagging:
            self._lagging[sink.fd] = (output, sink)
            self._epoll.register(sink.fd, select.EPOLLOUT)
        elif not lagging and self._lagging.get(sink.fd, (output, None))[1] is sink:
            del self._lagging[sink.fd]
            with contextlib.suppress(OSError):  # one that was dropped is closed
                self._epoll.unregister(sink.fd)
        if self._outputs.get(output.fd) is not output:
            return
        if output.waiting:
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(output.fd)
        else:
            with contextlib.suppress(FileExistsError):
                self._epoll.register(output.fd, select.EPOLLIN)

    def _finish(self, output: Output) -> None:
        """Nothing more comes for those who watch: what they have not taken yet is still theirs."""
        for sink in list(output.sinks):
            sink.finishing = True
            self._push(output, sink)

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

    def _send(self, connection: Connection, reply: Request, descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(reply).encode() + b"\n"
        try:
            sent = socket.send_fds(connection.socket, [data], descriptors)
        except OSError:
            sent = 0
        if sent != len(data):  # an agent that does not read comes back and asks again
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        for descriptor in connection.take():
            os.close(descriptor)
        if connection.attached is not None:
            for output in connection.attached.outputs:
                for sink in [sink for sink in output.sinks if sink.connection is connection]:
                    self._drop(output, sink)
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
        stdio = Stdio(*(bool(request.get(key)) for key in ("stdin", "stdinOnce", "tty")))
        new = start(name, request["attempt"], command, request["log"], connection.descriptors, stdio)
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

    def _running(self, name: str) -> Container:
        container = self._containers[name]
        if container.exit_code is not None:
            raise ValueError(f"container {container.name} is not running")
        return container

    def _exec(self, connection: Connection, request: Request) -> None:
        container = self._running(request["name"])
        if connection.exec_pid:
            raise ValueError("this connection has an exec already")
        command = container.command._replace(argv=request["argv"])
        if request.get("tty"):
            connection.exec_pid, master = spawn_on_terminal(command, connection.descriptors)
            self._send(connection, {"ok": True, "tty": True}, [master])
            os.close(master)
        else:
            stdin, stdout, stderr, *cgroups = connection.descriptors
            connection.exec_pid = spawn(command, (stdin, stdout, stderr), cgroups)

    def _attach(self, connection: Connection, request: Request) -> None:
        container = self._running(request["name"])
        if connection.attached is not None or len(connection.descriptors) != len(("stdout", "stderr")):
            raise ValueError("attach takes two descriptors, once")
        connection.attached = container
        outputs: list[Output | None] = [*container.outputs, None]
        for descriptor, output in zip(connection.take(), outputs, strict=False):
            if output is None or self._outputs.get(output.fd) is not output:
                os.close(descriptor)  # a terminal has no stderr, and a stream may have ended
            else:
                output.sinks.append(Sink(descriptor, connection))
        tty = container.stdio.tty
        wanted = container.input >= 0 and (tty or request["stdin"])
        self._send(connection, {"ok": True, "tty": tty}, [container.input] if wanted else [])
        if wanted and container.stdio.once and not tty:
            container.close_input()  # it is the first one's now, and ends when that one goes

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
                    if self._outputs.get(output.fd) is output:
                        # Its last words are in the log before its end is told.
                        self._pump(output, LAST_READS, wait=False)
                        self._finish(output)
                container.end(status, self._directory)
                self._tell_attached(container)
                return True
        for connection in list(self._connections.values()):
            if connection.exec_pid == pid:
                connection.exec_pid = 0
                code = os.waitstatus_to_exitcode(status)
                self._send(connection, {"ok": True, "exitCode": 128 - code if code < 0 else code})
        return False

    def _tell_attached(self, container: Container) -> None:
        for connection in list(self._connections.values()):
            if connection.attached is container:
                self._send(connection, {"ok": True, "exitCode": container.exit_code})
