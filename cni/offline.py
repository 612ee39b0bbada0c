"""The plugin's answer when its daemon does not give one: the shim and the Python executable become this.

What needs no daemon is answered as the daemon would: a wrong environment, version or configuration, and VERSION.
A DEL is promised on the disk (``journal``) and succeeds. Everything else fails, and may be tried again.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket

from cni import errors, executable, protocol
from cni.errors import CniError, Code
from cni.journal import Journal
from cni.protocol import Attachment, Command

_ANSWER_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class Cause:
    """Why there is no answer; ``stdin`` says that already standard input could not be read."""

    socket_path: str
    text: str
    stdin: bool = False

    def __str__(self) -> str:
        if self.stdin:
            return f"cannot read standard input: {self.text}"
        return f"cannot reach the netplane CNI daemon at {self.socket_path}: {self.text}"


def main(arguments: Sequence[str]) -> int:
    """``arguments``: socket, journal directory, `stdin` or `daemon`, cause. The exit status comes back."""
    socket_path, directory, kind, text = arguments
    cause = Cause(socket_path, text, stdin=kind == "stdin")
    stdin = b"".join(iter(lambda: os.read(0, 1 << 20), b""))
    status, stdout = answer(os.environ, stdin, cause, Journal(Path(directory)))
    return status if executable.write(stdout) else 1


def answer(environment: Mapping[str, str], stdin: bytes, cause: Cause, journal: Journal) -> tuple[int, bytes]:
    """(exit status, standard output)."""
    try:
        if cause.stdin:
            raise CniError(Code.IO_FAILURE, str(cause))
        request = protocol.parse(environment, stdin)
        match request.command:
            case Command.VERSION:
                return 0, protocol.render_version(request.version)
            case Command.DEL:
                return _promise(request.attachment, environment, stdin, cause, journal)
            case Command.STATUS:
                raise CniError(Code.NOT_AVAILABLE, str(cause))
            case _:
                raise CniError(Code.TRY_AGAIN, str(cause))
    except CniError as error:
        return 1, errors.render(error, protocol.version_of(stdin))


def _promise(
    attachment: Attachment, environment: Mapping[str, str], stdin: bytes, cause: Cause, journal: Journal
) -> tuple[int, bytes]:
    try:
        journal.write(attachment)
    except OSError as error:
        raise CniError(
            Code.TRY_AGAIN, f"{cause}; cannot write to {journal.directory}: {error.strerror}"
        ) from None
    # A daemon that came up meanwhile may have read the journal before this was in it. It listens first.
    status, stdout = _ask(environment, stdin, cause.socket_path)
    return (status, stdout) if status is not None else (0, b"")


def _ask(environment: Mapping[str, str], stdin: bytes, path: str) -> tuple[int | None, bytes]:
    with socket(AF_UNIX, SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(path)
            executable.send(connection, dict(environment), stdin)
            return executable.receive(connection)
        except OSError:
            return None, b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
