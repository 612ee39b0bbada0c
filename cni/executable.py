"""The plugin a container runtime runs where no C compiler made the shim. It carries the request to the daemon and
the answer back, no more; where there is no answer it becomes ``cni.offline``.

Standard library only, started with ``python -IS``: the interpreter's start is most of an ADD, and the wrapper
module ``socket`` (it makes enums) would double it; so the C module under it. ``cni.install`` copies this file
with its paths.

One connection a request. We send ``NPCNI1 <environment bytes> <stdin bytes>`` (two numbers of 8 hexadecimal
digits) and a newline, with the opened CNI_NETNS as SCM_RIGHTS: the daemon may see other mounts and processes
than we do. Then the CNI_* environment, NUL between ``KEY=VALUE``, and standard input. The answer is the exit
status and a newline, then what goes to standard output, to the end of the stream: nothing, or a line with its
newline. So the shim need not wait for the end, and one that was cut short is told from a whole one.
"""

import os
import sys
import time
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket

SOCKET_PATH = "/run/netplane/cni.sock"
PYTHON_PATH = "/usr/bin/python3"
JOURNAL_PATH = "/var/lib/netplane/cni/journal"
CONNECT_SECONDS = 5.0  # a daemon that restarts is waited for so long
DELETE_SECONDS = 1.0  # less: a DEL can be written down instead
ANSWER_SECONDS = 45.0  # less than runtimes give a plugin: they should read our words


def main(environment: "os._Environ[str]") -> int:
    """One request; the exit status comes back."""
    command = environment.get("CNI_COMMAND", "")
    try:
        stdin = _read_all(0)
    except OSError as error:
        return _offline("stdin", error.strerror or str(error), b"")
    patience = {"STATUS": 0.0, "VERSION": 0.0, "DEL": DELETE_SECONDS}.get(command, CONNECT_SECONDS)
    try:
        connection = _connect(patience)
        send(connection, environment, stdin)
        status, answer = receive(connection)
    except OSError as error:
        return _offline("daemon", error.strerror or str(error), stdin)
    return status if write(answer) else 1


def _offline(kind: str, cause: str, stdin: bytes) -> int:
    """Does not return: this process becomes ``cni.offline``, with the same standard input."""
    descriptor = os.memfd_create("stdin", 0)
    while stdin:
        stdin = stdin[os.write(descriptor, stdin) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.dup2(descriptor, 0)
    os.execv(PYTHON_PATH, [PYTHON_PATH, "-I", "-m", "cni.offline", SOCKET_PATH, JOURNAL_PATH, kind, cause])


def _connect(patience: float) -> socket:
    deadline = time.monotonic() + patience
    while True:
        connection = socket(AF_UNIX, SOCK_STREAM)
        try:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(SOCKET_PATH)
        except OSError:
            connection.close()
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)
        else:
            return connection


def send(connection: socket, environment: "os._Environ[str] | dict[str, str]", stdin: bytes) -> None:
    """The whole request."""
    pairs = (f"{key}={value}" for key, value in environment.items() if key.startswith("CNI_"))
    variables = os.fsencode("\0".join(pairs))
    header = b"NPCNI1 %08x %08x\n" % (len(variables), len(stdin))
    descriptor = _open_netns(environment.get("CNI_NETNS", ""))
    if descriptor < 0:
        connection.sendall(header)
    else:
        try:
            rights = descriptor.to_bytes(4, sys.byteorder)
            connection.sendmsg([header], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        finally:
            os.close(descriptor)
    connection.sendall(variables + stdin)


def _open_netns(path: str) -> int:
    """-1 where it cannot be opened: the daemon says what that means for the verb."""
    if not path:
        return -1
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return -1


def receive(connection: socket) -> tuple[int, bytes]:
    """(exit status, standard output). Raises OSError where the daemon ends before it answered."""
    whole = b"".join(iter(lambda: connection.recv(65536), b""))
    status, newline, answer = whole.partition(b"\n")
    if not newline or not status.isdigit() or (answer and not answer.endswith(b"\n")):
        raise OSError("it went away before it answered")
    return int(status), answer


def _read_all(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))


def write(data: bytes) -> bool:
    """To standard output. False where nobody reads: the runtime does not have the answer, and the status says so."""
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(os.environ))
