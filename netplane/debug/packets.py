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
    """One packet of the request, dissected. ``side``: "client" or "endpoint"."""

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


def follow(captured: Iterable[Captured], client: Peer, cookie: str) -> list[Seen]:
    """The packets of one request on both sides, in the order of their time.

    ``client`` is the address and port that sent it, ``cookie`` the text that only this request has.
    """
    packets = [packet for entry in captured if (packet := _dissect(entry)) is not None]
    asked = [packet for packet in packets if cookie.encode() in packet.payload]
    flows = {packet.flow: ("client" if client in packet.flow else "endpoint") for packet in asked}
    flows |= {packet.flow: "client" for packet in packets if client in packet.flow}
    found = [_seen(packet, flows[packet.flow]) for packet in packets if packet.flow in flows]
    return sorted(found, key=lambda seen: seen.time)


def endpoint_side(rows: Iterable[Seen]) -> tuple[Peer, Peer] | None:
    """(the client as the endpoint saw it, the endpoint), from the endpoint side's first packet to it."""
    asked = next((row for row in rows if row.side == "endpoint" and row.flags.startswith("SYN")), None)
    if asked is None:
        return None
    ends = (asked.source, asked.destination)
    return ends if "ACK" not in asked.flags else (ends[1], ends[0])


def render(rows: Iterable[Seen], names: Mapping[str, str]) -> list[str]:
    """One line a packet: when, where, from whom to whom, what. ``names`` tells what an address is."""
    listed = list(rows)
    begin = listed[0].time if listed else 0.0
    lines = []
    for row in listed:
        way = "from pod" if row.inbound else "to pod"
        ends = f"{_told(row.source, names)} > {_told(row.destination, names)}"
        lines.append(
            f"{(row.time - begin) * 1000:8.2f} ms {row.node:<4} {row.device:<15} {way:<8}  {ends}  {row.flags}"
            + (f" {row.length} bytes" if row.length else "")
            + (f"  {row.note}" if row.note else "")
        )
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
