"""A worker whose proxy has gone holds its flows, and gives them to a worker of the next proxy.

Why a holder: a supervisor starts the next process when the last one has ended, and that takes most of a
second in which no byte may wait. So the worker goes on relaying with nothing but the epoll set, until a
successor asks for the flows at a unix socket, or none is left, or time is up.

Why this is safe: between two events a flow is descriptors and flags, and nothing of it is in user space. Two processes
that relay one flow would corrupt it, and where none does it stands still; so one word decides who does, the ``+`` of
the successor.

The laws:
1. The holder watches no flow of a batch from before it sends it.
2. The successor reads a batch whole, then says ``+``, and watches its flows only where the kernel has taken the word.
   Where that fails it closes its copies, which tells the flows' peers nothing, and may ask again.
3. The holder takes a batch back only where the word can come no more: it shuts its end for reading, from when on the
   kernel refuses the word (EPIPE), and then reads what was said before.
4. A process that is killed in between cannot know, and nor can the one that follows it. So both mark the time from
   sending, or receiving, until all is decided in their ledgers, and hold flows of the batch as nobody's meanwhile: what
   is found so is ended by RST for both (``recovery``), a batch at most.
"""

import array
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from proxy.userspace.flow import Flow, Side

FORMAT = 1
BATCH = 40  # flows a message: six descriptors each at most, and the kernel carries 253 (SCM_MAX_FD)
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
