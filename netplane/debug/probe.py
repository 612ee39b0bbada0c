"""Sends one HTTP request from inside a pod's network namespace, every packet of it built by scapy.

``python -m netplane.debug.probe REQUEST`` runs on the pod's node. The pod's kernel knows nothing of this
connection and would answer its packets with RST; one nft rule in the pod's own namespace, for this one port,
keeps it quiet and is removed again. The source port lies above the pods' own range, so nothing is disturbed.
"""

import random
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import orjson
from scapy.layers.inet import IP

from netplane.config import parse
from netplane.debug.attached import process_in
from netplane.debug.exchange import Exchange, Outcome
from netplane.errors import ConfigError, NetplaneError
from netplane.linux import nft
from netplane.linux.namespaces import entered_netns

ETH_P_IP = 0x0800
FIRST_PORT, LAST_PORT = 61000, 65535
REPEAT = 0.5
"""Seconds of silence after which a packet is sent again."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask, from which pod (its address), and how long to wait for the answer."""

    pod: str
    address: str
    port: int
    path: str
    host: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """How it ended. ``port``: the source port; ``status``: HTTP's, 0 without an answer; ``body``: as text."""

    outcome: str
    port: int = 0
    status: int = 0
    body: str = ""
    error: str = ""


def ask(question: Question) -> Reply:
    """The whole request, within the question's time. Raises NetplaneError where it cannot be sent."""
    process = process_in(question.pod)
    if not process:
        raise ConfigError(f"cannot send from {question.pod}: no process of this node is in its namespace")
    text = f"GET {question.path} HTTP/1.1\r\nHost: {question.host}\r\nConnection: close\r\n\r\n"
    port = random.randint(FIRST_PORT, LAST_PORT)
    exchange = Exchange(
        question.pod, port, question.address, question.port, text.encode(), random.getrandbits(32)
    )
    with entered_netns(f"/proc/{process}/ns/net"), _no_reset(port):
        _drive(exchange, question.seconds)
    status, body = parse_answer(bytes(exchange.answer))
    return Reply(str(exchange.outcome or Outcome.SILENT), port, status, body)


def parse_answer(answer: bytes) -> tuple[int, str]:
    """Status and body of an HTTP answer; (0, "") where it is none."""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return 0, ""
    return int(words[1]), body.decode(errors="replace")


@contextmanager
def _no_reset(port: int) -> Iterator[None]:
    table = f"inet netplane_probe_{port}"
    chain = "type filter hook output priority raw; policy accept;"
    rule = f"tcp sport {port} tcp flags & rst == rst drop"
    nft.apply(f"table {table} {{\n chain out {{\n {chain}\n {rule}\n }}\n}}")
    try:
        yield
    finally:
        nft.apply(f"delete table {table}")


def _drive(exchange: Exchange, seconds: float) -> None:
    """Packets in and out until both sides are done or the time is up; a peer that never closes costs one wait."""
    deadline = time.monotonic() + seconds
    listening = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    sending = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with listening, sending:

        def send(packets: list[IP]) -> None:
            for packet in packets:
                sending.sendto(bytes(packet), (exchange.address, 0))

        send(exchange.start())
        while not exchange.closed and (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([listening], [], [], min(left, REPEAT))
            if not readable and exchange.outcome is not None:
                return
            if not readable:
                send(exchange.again())
                continue
            data, origin = listening.recvfrom(65535)
            if origin[2] != socket.PACKET_OUTGOING:
                send(exchange.receive(IP(data)))


def main(arguments: list[str]) -> int:
    """Prints the reply to the question in the first argument, as JSON."""
    try:
        reply = ask(parse(Question, orjson.loads(arguments[0]), "question"))
    except (NetplaneError, OSError) as error:
        reply = Reply("", error=str(error))
    sys.stdout.buffer.write(orjson.dumps(asdict(reply)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
