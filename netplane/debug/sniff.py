"""Copies the packets at the host's end of some pods' links, until standard input ends.

``python -m netplane.debug.sniff ADDRESS...`` runs on a node: it says ``ready`` once every packet from then on will
be seen, and at the end prints one JSON line a packet. Bounded in time and number, whoever forgets it.
"""

import socket
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from select import select

import orjson

from netplane.debug.attached import device_of
from netplane.linux.rtnl import rtnl

ETH_P_IP = 0x0800
ETH_P_ALL = 0x0003  # only this one also sees what the node sends
SO_TIMESTAMPNS_OLD = 35
PACKETS = 2000
SECONDS = 60.0
TCP = 6


@dataclass(frozen=True, slots=True)
class Copy:
    """One IP packet as it passed. ``inbound``: from the pod into the node; ``time``: of the kernel, seconds."""

    device: str
    inbound: bool
    time: float
    packet: str


def sniff(addresses: Sequence[str]) -> list[Copy]:
    """All TCP packets at these pods' links between the word ``ready`` and the end of standard input."""
    with rtnl() as ipr:
        devices = {device for address in addresses if (device := device_of(ipr, address))}
    with ExitStack() as stack:
        taps = [stack.enter_context(_tap(device)) for device in sorted(devices)]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        found: list[Copy] = []
        deadline = time.monotonic() + SECONDS
        ending = False
        while len(found) < PACKETS and (left := deadline - time.monotonic()) > 0:
            # Once asked to end: what is in the sockets already, and then no more.
            waiting = [] if ending else [sys.stdin.fileno()]
            readable, _, _ = select(
                [*(tap.fileno() for tap in taps), *waiting], [], [], 0 if ending else left
            )
            if not readable and ending:
                break
            ending = ending or sys.stdin.fileno() in readable
            copies = [_copy(tap) for tap in taps if tap.fileno() in readable]
            found += [copy for copy in copies if copy is not None]
        return found


def _tap(device: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_OLD, 1)
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    tap.bind((device, ETH_P_ALL))
    return tap


def _copy(tap: socket.socket) -> Copy | None:
    data, extra, _, origin = tap.recvmsg(65535, 64)
    if origin[1] != ETH_P_IP or data[9] != TCP:
        return None
    stamp = time.time()
    for level, kind, value in extra:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS_OLD):
            seconds, nanoseconds = struct.unpack("ll", value[:16])
            stamp = seconds + nanoseconds / 1e9
    return Copy(origin[0], origin[2] != socket.PACKET_OUTGOING, stamp, data.hex())


def main(arguments: list[str]) -> int:
    """Prints what passed at the links of the pods whose addresses are given."""
    for copy in sniff([str(ip_address(text)) for text in arguments]):
        sys.stdout.buffer.write(orjson.dumps(asdict(copy)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
