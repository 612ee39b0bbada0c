"""The channel protocols v4.channel.k8s.io and v5.channel.k8s.io: the first byte of a message names its stream. Pure.

Source: Kubernetes `apimachinery/pkg/util/remotecommand`, `client-go/tools/remotecommand`; KEP-4006.
"""

from dataclasses import dataclass
from typing import Any

import orjson

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
MAX_SIDE = 65535  # columns and rows are 16 bits in the kernel


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for stdin."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """Stdin ends (v5 only)."""


@dataclass(frozen=True, slots=True)
class Resize:
    """The client's terminal has this size now."""

    columns: int
    rows: int


Message = Input | EndOfInput | Resize


def read(message: bytes, protocol: str) -> Message | None:
    """What a client says; None for what has no meaning on this side. Raises ValueError naming what is malformed."""
    if not message:
        return None
    match message[0]:
        case 0:  # STDIN
            return Input(message[1:])
        case 4:  # RESIZE
            return _size(message[1:])
        case 255 if protocol == V5:  # CLOSE
            if len(message) != 2:
                raise ValueError("a close message must name one channel")
            return EndOfInput() if message[1] == STDIN else None
    return None


def _size(body: bytes) -> Resize:
    try:
        size: Any = orjson.loads(body)
        columns, rows = size["Width"], size["Height"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ValueError("a resize message must have Width and Height") from None
    if not all(type(side) is int and 0 <= side <= MAX_SIDE for side in (columns, rows)):
        raise ValueError(f"Width and Height must be whole numbers up to {MAX_SIDE}")
    return Resize(columns, rows)


def success() -> bytes:
    """The last message of what went well."""
    return _status({"metadata": {}, "status": "Success"})


def ended(code: int) -> bytes:
    """The last message of a command that ended with ``code``."""
    if code == 0:
        return success()
    return _status(
        {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: exit code {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    )


def failed(message: str) -> bytes:
    """The last message of what could not be done."""
    return _status(
        {
            "metadata": {},
            "status": "Failure",
            "message": f"Internal error occurred: {message}",
            "reason": "InternalError",
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }
    )


def _status(status: dict[str, Any]) -> bytes:
    return bytes([ERROR]) + orjson.dumps(status)
