"""Asks the daemon, for commands of ours: `netplane cni status` and `gc`."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cni import executable
from cni.leases import read, store_path
from netplane.config import Paths
from netplane.errors import NetplaneError, PeerError

_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Status:
    """``reason`` is empty where the daemon answers; ``attachments`` counts by state, from the store."""

    running: bool
    reason: str
    attachments: Mapping[str, int]


def status(root: Path) -> Status:
    """Whether the CNI daemon of a node answers, and what it holds. Raises NetplaneError: the store is broken."""
    paths = Paths(root)
    counts: dict[str, int] = {}
    for lease in read(store_path(paths.state)):
        counts[str(lease.state)] = counts.get(str(lease.state), 0) + 1
    try:
        call(paths.cni_socket, {"CNI_COMMAND": "VERSION"})
    except NetplaneError as error:
        return Status(False, str(error), counts)
    return Status(True, "", counts)


def gc(root: Path) -> Mapping[str, list[str]]:
    """Free what nothing can be using, and put back what live attachments lost.

    Keys ``freed``, ``removed_links``, ``restored``, ``failed``: what was done. Raises PeerError: no daemon.
    """
    done: dict[str, list[str]] = call(Paths(root).cni_socket, {"CNI_COMMAND": "NETPLANE_MEND"})
    return done


def call(socket_path: Path, environment: Mapping[str, str], stdin: bytes = b"") -> Any:
    """One request to the daemon, its answer as JSON. Raises PeerError with the daemon's own words."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(str(socket_path))
            executable.send(connection, dict(environment), stdin)
            code, stdout = executable.receive(connection)
    except OSError as error:
        raise PeerError(
            f"cannot reach the CNI daemon at {socket_path}: {error.strerror or error}",
            "Start it: netplane cni serve",
        ) from None
    answer = orjson.loads(stdout) if stdout else {}
    if code != 0:
        raise PeerError(str(answer.get("msg", "the CNI daemon refused")), str(answer.get("details", "")))
    return answer
