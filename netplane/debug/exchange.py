"""One HTTP request over TCP, driven packet by packet by scapy. Pure: packets in, packets out.

It is the client's half of TCP and no more (RFC 9293): no window, no SACK, segments out of order wait for the
peer's retransmission. That is enough to ask one question, and every packet of it is ours to look at.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

SYN, ACK, FIN, RST, PSH = "S", "A", "F", "R", "P"
MSS = 1360
SEQUENCE = 2**32
HALF = 2**31


class Outcome(StrEnum):
    """How the exchange ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    RESET = "reset"
    SILENT = "silent"


@dataclass(slots=True)
class Exchange:
    """From SYN to the last byte. ``start`` and ``receive`` return what is to be sent now.

    ``outcome`` is known once the answer is whole; ``closed`` once both sides have said that they are done.
    """

    source: str
    source_port: int
    address: str
    port: int
    request: bytes
    sequence: int
    expected: int = 0
    connected: bool = False
    acknowledged: bool = False
    closing: bool = False
    closed: bool = False
    outcome: Outcome | None = None
    answer: bytearray = field(default_factory=bytearray)

    def start(self) -> list[IP]:
        """The first packet; also what to send again while nothing has come back."""
        return [self._packet(SYN, sequence=self.sequence, acknowledge=0, options=[("MSS", MSS)])]

    def again(self) -> list[IP]:
        """What to repeat after a silence: the first packet or the request, whichever is unanswered."""
        if not self.connected:
            return self.start()
        return [] if self.acknowledged else [self._ask()]

    def receive(self, packet: IP) -> list[IP]:
        """Take a packet; those that do not belong to the exchange are ignored."""
        if not self._ours(packet) or self.closed:
            return []
        segment = packet[TCP]
        flags = str(segment.flags)
        if RST in flags:
            self.outcome = self.outcome or (Outcome.RESET if self.connected else Outcome.REFUSED)
            self.closed = True
            return []
        if not self.connected:
            return self._connect(segment) if SYN in flags and ACK in flags else []
        if ACK in flags and (segment.ack - self._end) % SEQUENCE < HALF:
            self.acknowledged = True
        return self._data(segment, flags)

    @property
    def _end(self) -> int:
        """The sequence number after the request."""
        return (self.sequence + 1 + len(self.request)) % SEQUENCE

    def _ours(self, packet: IP) -> bool:
        if TCP not in packet or packet.src != self.address or packet.dst != self.source:
            return False
        return (packet[TCP].sport, packet[TCP].dport) == (self.port, self.source_port)

    def _connect(self, segment: TCP) -> list[IP]:
        if segment.ack != (self.sequence + 1) % SEQUENCE:
            return []  # an answer to another connection of the same ports
        self.connected = True
        self.expected = (segment.seq + 1) % SEQUENCE
        return [self._packet(ACK, sequence=self.sequence + 1), self._ask()]

    def _ask(self) -> IP:
        return self._packet(PSH + ACK, sequence=self.sequence + 1) / Raw(self.request)

    def _data(self, segment: TCP, flags: str) -> list[IP]:
        # By the segment's own length: short frames are padded to 60 bytes, and padding is no data.
        data = bytes(segment[Raw].load) if Raw in segment else b""
        if not data and FIN not in flags:
            return []
        if segment.seq != self.expected:
            return [self._acknowledge()]  # says which byte is still missing
        self.answer += data
        self.expected = (self.expected + len(data) + (FIN in flags)) % SEQUENCE
        self.closed = FIN in flags
        if not self.closing and (self.closed or self._complete()):
            self.outcome = Outcome.ANSWERED if self.answer else Outcome.RESET
            self.closing = True
            return [self._packet(FIN + ACK, sequence=self._end)]
        return [self._acknowledge()]

    def _acknowledge(self) -> IP:
        return self._packet(ACK, sequence=self._end + self.closing)  # a FIN takes a number as a byte does

    def _complete(self) -> bool:
        """Whether the answer has all the bytes that its head promises."""
        head, end, body = bytes(self.answer).partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if end and name == b"content-length" and value.strip().isdigit():
                return len(body) >= int(value)
        return False

    def _packet(
        self,
        flags: str,
        *,
        sequence: int,
        acknowledge: int | None = None,
        options: list[tuple[str, int]] | None = None,
    ) -> IP:
        tcp = TCP(
            sport=self.source_port,
            dport=self.port,
            flags=flags,
            seq=sequence % SEQUENCE,
            ack=self.expected if acknowledge is None else acknowledge,
            options=options or [],
        )
        return IP(src=self.source, dst=self.address) / tcp
