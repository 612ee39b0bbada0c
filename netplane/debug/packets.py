"""From captured bytes to who talked to whom. Pure; scapy dissects.

The client's side is known by its port. The endpoint's side is found by the cookie in the request, so that other
traffic between the same two addresses is never taken for ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

FLAGS = {"S": "SYN", "A": "ACK", "P": "PSH", "F": "FIN", "R": "RST", "U": "URG"}
Peer = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Captured:
    """One packet's bytes (from the IP header) and where they passed. ``inbound``: from the pod into the node."""

    node: str
    device: str
    inbound: bool
    time: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet of the request, dissected. ``side``: at the "client"'s link or at the "endpoint"'s."""

    side: str
    node: str
    device: str
    inbound: bool
    time: float
    source: Peer
    destination: Peer
    flags: str
    length: int
    note: str


@dataclass(frozen=True, slots=True)
class _Packet:
    captured: Captured
    source: Peer
    destination: Peer
    flags: str
    payload: bytes

    @property
    def flow(self) -> frozenset[Peer]:
        return frozenset((self.source, self.destination))

    @property
    def link(self) -> tuple[str, str]:
        return (self.captured.node, self.captured.device)


def follow(captured: Iterable[Captured], client: Peer, cookie: str) -> list[Seen]:
    """The packets of one request on both sides, in the order of their time.

    ``client`` is the address and port that sent it, ``cookie`` the text that only this request has.
    """
    packets = [packet for entry in captured if (packet := _dissect(entry)) is not None]
    ours = {packet.flow for packet in packets if client in packet.flow or cookie.encode() in packet.payload}
    links = {packet.link for packet in packets if packet.source == client and packet.captured.inbound}
    found = [
        _seen(packet, "client" if client in packet.flow and packet.link in links else "endpoint")
        for packet in packets
        if packet.flow in ours
    ]
    return sorted(found, key=lambda seen: seen.time)


def render(rows: Iterable[Seen], names: Mapping[str, str]) -> list[str]:
    """One side: a line that says who talks to whom and where that was seen, then a line a packet.

    ``names`` tells what an address is. Empty where nothing was seen.
    """
    listed = list(rows)
    if not listed:
        return []
    first = listed[0]
    asking, asked = first.source, first.destination
    if first.flags == "SYN,ACK":
        asking, asked = asked, asking
    where = ", ".join(dict.fromkeys(f"{row.node} {row.device}" for row in listed))
    lines = [f"{_told(asking, names)} -> {_told(asked, names)}  [{where}]"]
    for row in listed:
        way = "->" if row.source == asking else "<-"
        size = f" {row.length} bytes" if row.length else ""
        note = f"  {row.note}" if row.note else ""
        lines.append(f"{(row.time - first.time) * 1000:10.2f} ms {way} {row.flags}{size}{note}")
    return lines


def _dissect(entry: Captured) -> _Packet | None:
    packet = IP(entry.data)
    if TCP not in packet:
        return None
    segment = packet[TCP]
    flags = "".join(letter for letter in str(segment.flags) if letter in FLAGS)
    payload = bytes(segment[Raw].load) if Raw in segment else b""
    ends = (str(packet.src), int(segment.sport)), (str(packet.dst), int(segment.dport))
    return _Packet(entry, *ends, flags, payload)


def _seen(packet: _Packet, side: str) -> Seen:
    entry = packet.captured
    words = ",".join(FLAGS[letter] for letter in packet.flags)
    first = packet.payload.split(b"\r\n")[0].decode(errors="replace")
    note = first if "HTTP/" in first else ""
    return Seen(
        side,
        entry.node,
        entry.device,
        entry.inbound,
        entry.time,
        packet.source,
        packet.destination,
        words,
        len(packet.payload),
        note,
    )


def _told(peer: Peer, names: Mapping[str, str]) -> str:
    name = names.get(peer[0], "")
    return f"{peer[0]}:{peer[1]}" + (f" ({name})" if name else "")
