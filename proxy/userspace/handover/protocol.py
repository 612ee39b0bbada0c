"""What a holder and its successor say to one another: batches of flows, and one word. The laws are the room's."""

import array
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from proxy.userspace.streams.flow import Flow, Side

FORMAT = 1
# Flows a message: each stands still for as long as one takes. Six descriptors each at most, of the 253 that the kernel
# carries (SCM_MAX_FD).
BATCH = 20
LARGEST = 128 * 1024  # bytes a message
TAKEN = b"+"
NAME = "proxy-flows-{pid}.sock"


def waiting(directory: Path) -> list[Path]:
    """The sockets at which holders wait, or waited."""
    return sorted(directory.glob(NAME.format(pid="*")))


def sides(flow: Flow) -> tuple[Side, Side]:
    """Both sides of a flow that has both."""
    assert flow.client_side is not None
    assert flow.endpoint_side is not None
    return flow.client_side, flow.endpoint_side


def send(sock: socket.socket, flows: Sequence[Flow], prefaced: Sequence[bool], since: float) -> None:
    """Flows as one message: what they are as JSON, and their descriptors in the same order.

    ``prefaced``: see ``Relay.adopt``. ``since``: the moment from which nobody relays them, in monotonic seconds.
    """
    entries: list[dict[str, Any]] = []
    descriptors = array.array("i")
    for flow, was_prefaced in zip(flows, prefaced, strict=True):
        entries.append(_describe(flow, was_prefaced))
        for side in sides(flow):
            descriptors.append(side.fd)
            if side.pipe is not None:
                descriptors.extend((side.pipe.reader, side.pipe.writer))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
    sock.sendmsg([orjson.dumps({"format": FORMAT, "since": since, "flows": entries})], rights)


def _describe(flow: Flow, prefaced: bool) -> dict[str, Any]:
    frontend, service, endpoint = flow.listener.frontend, flow.listener.target.service, flow.endpoint
    assert endpoint is not None
    return {
        "frontend": [str(frontend.address), frontend.port, frontend.protocol],
        "service": [service.namespace, service.name, service.port],
        "endpoint": [str(endpoint.address), endpoint.port, endpoint.local],
        "client": flow.client.text,
        "prefaced": prefaced,
        "halves": [int(side.half) for side in sides(flow)],
        # Bytes in the pipe of each direction; None where it has no pipe.
        "held": [None if side.pipe is None else side.pipe.held for side in sides(flow)],
    }


def receive(sock: socket.socket) -> tuple[Mapping[str, Any], list[int]]:
    """A message and its descriptors; empty at the end. Raises BlockingIOError, OSError, ValueError."""
    size = array.array("i").itemsize
    space = socket.CMSG_SPACE(253 * size)
    message, notes, flags, _ = sock.recvmsg(LARGEST, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in notes:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % size])
    if not message:
        return {}, []
    cut = flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
    document = {} if cut else orjson.loads(message)
    if document.get("format") != FORMAT:
        close(descriptors)
        raise ValueError("cut short: no descriptor is left" if cut else f"format {document.get('format')}")
    return document, list(descriptors)


def close(descriptors: Iterable[int]) -> None:
    """Let go of what came with a batch that is not ours after all."""
    for fd in descriptors:
        os.close(fd)
