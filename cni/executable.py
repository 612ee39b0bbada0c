"""The plugin a container runtime runs. It carries the request to the daemon and the answer back, no more.

Standard library only, started with ``python -IS``: the interpreter's start is most of an ADD, and the wrapper
module ``socket`` (it makes enums) would double it; so the C module under it. ``cni.install`` copies this file
with its socket's path.

One connection a request. We send ``NPCNI1 <environment bytes> <stdin bytes>`` (two numbers of 8 hexadecimal
digits) and a newline, with the opened CNI_NETNS as SCM_RIGHTS: the daemon may see other mounts and processes
than we do. Then the CNI_* environment, NUL between ``KEY=VALUE``, and standard input. The answer is the exit
status and a newline, then what goes to standard output, to the end of the stream.
"""

import os
import sys
import time
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket

SOCKET_PATH = "/run/netplane/cni.sock"
CONNECT_SECONDS = 5.0  # a daemon that restarts is waited for so long
ANSWER_SECONDS = 45.0  # less than runtimes give a plugin: they should read our words
SUPPORTED_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

IO_FAILURE, DECODING_FAILURE, TRY_AGAIN, NOT_AVAILABLE = 5, 6, 11, 50


def main(environment: "os._Environ[str] | dict[str, str]") -> int:
    """One request; the exit status comes back."""
    command = environment.get("CNI_COMMAND", "")
    try:
        stdin = _read_all(0)
    except OSError as error:
        return _fail(IO_FAILURE, f"cannot read standard input: {error.strerror}", b"")
    if command == "VERSION":
        return _version(stdin)
    try:
        connection = _connect(0.0 if command == "STATUS" else CONNECT_SECONDS)
        send(connection, environment, stdin)
        status, answer = receive(connection)
    except OSError as error:
        code = NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN
        return _fail(code, f"cannot reach the netplane CNI daemon at {SOCKET_PATH}: {error}", stdin)
    return status if _write(answer) else 1


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
    if not newline or not status.isdigit():
        raise OSError("it went away before it answered")
    return int(status), answer


def _version(stdin: bytes) -> int:
    import json  # a tenth of the start, and only errors and VERSION need it

    document = {}
    if stdin.strip():
        try:
            document = json.loads(stdin)
        except ValueError as error:
            return _fail(DECODING_FAILURE, f"cannot decode the network configuration: {error}", b"")
    asked = document.get("cniVersion") if isinstance(document, dict) else None
    answer = {
        "cniVersion": asked if asked in SUPPORTED_VERSIONS else SUPPORTED_VERSIONS[-1],
        "supportedVersions": SUPPORTED_VERSIONS,
    }
    return 0 if _write(json.dumps(answer).encode() + b"\n") else 1


def _fail(code: int, message: str, stdin: bytes) -> int:
    import json  # see _version

    try:
        asked = json.loads(stdin)["cniVersion"]
    except (ValueError, TypeError, KeyError):
        asked = None
    version = asked if asked in SUPPORTED_VERSIONS else SUPPORTED_VERSIONS[-1]
    _write(json.dumps({"cniVersion": version, "code": code, "msg": message}).encode() + b"\n")
    return 1


def _read_all(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))


def _write(data: bytes) -> bool:
    """False where nobody reads: then the runtime does not have the answer, and the exit status must say so."""
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(os.environ))
