"""The client's half of TCP as a transcript: what comes in, what goes out, how it ends."""

from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from netplane.debug.exchange import SEQUENCE, Exchange, Outcome
from netplane.debug.probe import parse_answer

CLIENT, SERVER = "10.244.1.3", "10.96.0.20"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def exchange(sequence: int = 1000) -> Exchange:
    return Exchange(CLIENT, 61000, SERVER, 80, REQUEST, sequence)


def reply(flags: str, seq: int, ack: int, data: bytes = b"", **fields: object) -> IP:
    ends = {"src": SERVER, "dst": CLIENT, "sport": 80, "dport": 61000, **fields}
    tcp = TCP(sport=ends["sport"], dport=ends["dport"], flags=flags, seq=seq % SEQUENCE, ack=ack % SEQUENCE)
    packet = IP(src=ends["src"], dst=ends["dst"]) / tcp
    return IP(bytes(packet / Raw(data) if data else packet))  # as it would come from the wire


def told(packets: list[IP]) -> list[tuple[str, int, int, bytes]]:
    return [
        (str(p[TCP].flags), p[TCP].seq, p[TCP].ack, bytes(p[Raw].load) if Raw in p else b"") for p in packets
    ]


def test_a_whole_request() -> None:
    talk = exchange()
    assert told(talk.start()) == [("S", 1000, 0, b"")]
    assert told(talk.receive(reply("SA", 5000, 1001))) == [
        ("A", 1001, 5001, b""),
        ("PA", 1001, 5001, REQUEST),
    ]
    end = 1001 + len(REQUEST)
    assert told(talk.receive(reply("A", 5001, end))) == []
    assert told(talk.receive(reply("PA", 5001, end, ANSWER[:10]))) == [("A", end, 5011, b"")]
    assert told(talk.receive(reply("PA", 5011, end, ANSWER[10:]))) == [("FA", end, 5001 + len(ANSWER), b"")]
    assert (talk.outcome, talk.closed) == (Outcome.ANSWERED, False)
    last = 5001 + len(ANSWER)
    assert told(talk.receive(reply("FA", last, end + 1))) == [("A", end + 1, last + 1, b"")]
    assert talk.closed
    assert parse_answer(bytes(talk.answer)) == (200, "ok")


def test_an_answer_without_length_ends_with_fin() -> None:
    talk = exchange()
    talk.receive(reply("SA", 5000, 1001))
    talk.receive(reply("A", 5001, 1019, b"HTTP/1.0 200 OK\r\n\r\nall"))
    assert talk.outcome is None
    assert told(talk.receive(reply("FA", 5023, 1019))) == [("FA", 1019, 5024, b"")]
    assert talk.outcome is Outcome.ANSWERED


def test_sequence_numbers_wrap() -> None:
    talk = exchange(SEQUENCE - 1)
    sent = told(talk.receive(reply("SA", SEQUENCE - 1, SEQUENCE)))
    assert [(seq, ack) for _, seq, ack, _ in sent] == [(0, 0), (0, 0)]
    talk.receive(reply("PA", 0, len(REQUEST), ANSWER))
    assert talk.outcome is Outcome.ANSWERED


def test_a_reset_is_a_refusal_before_and_a_reset_after_the_handshake() -> None:
    refused = exchange()
    assert refused.receive(reply("RA", 0, 1001)) == []
    assert refused.outcome is Outcome.REFUSED
    reset = exchange()
    reset.receive(reply("SA", 5000, 1001))
    reset.receive(reply("R", 5001, 0))
    assert reset.outcome is Outcome.RESET


def test_a_segment_out_of_order_is_asked_for_again() -> None:
    talk = exchange()
    talk.receive(reply("SA", 5000, 1001))
    assert told(talk.receive(reply("PA", 5100, 1019, b"later"))) == [("A", 1019, 5001, b"")]
    assert talk.answer == b""


def test_other_traffic_is_ignored() -> None:
    talk = exchange()
    for packet in (
        reply("SA", 5000, 1001, src="10.96.0.99"),
        reply("SA", 5000, 1001, sport=81),
        reply("SA", 5000, 7777),
        reply("A", 5000, 1001),
    ):
        assert talk.receive(packet) == []
    assert talk.outcome is None
    assert not talk.connected


def test_what_a_silence_repeats() -> None:
    talk = exchange()
    assert told(talk.again()) == [("S", 1000, 0, b"")]
    talk.receive(reply("SA", 5000, 1001))
    assert told(talk.again()) == [("PA", 1001, 5001, REQUEST)]
    talk.receive(reply("A", 5001, 1001 + len(REQUEST)))
    assert talk.again() == []


def test_padding_of_short_frames_is_no_data() -> None:
    talk = exchange()
    talk.receive(reply("SA", 5000, 1001))
    padded = IP(bytes(reply("A", 5001, 1019)) + bytes(6))
    assert talk.receive(padded) == []
    assert talk.answer == b""


def test_what_is_no_http_has_no_status() -> None:
    assert parse_answer(b"") == (0, "")
    assert parse_answer(b"SSH-2.0-x\r\n") == (0, "")
