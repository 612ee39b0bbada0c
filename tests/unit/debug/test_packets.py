"""Captured bytes in, one line a packet out; only the request's own packets."""

from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw

from netplane.debug.packets import Captured, follow, render

CLIENT, SERVICE, PROXIED, POD = (
    ("10.244.1.3", 61000),
    ("10.96.0.20", 80),
    ("10.244.1.3", 10240),
    ("10.244.2.9", 8080),
)
COOKIE = "netplane-probe=abc"
GET = f"GET /?{COOKIE} HTTP/1.1\r\n\r\n".encode()
OK = b"HTTP/1.1 200 OK\r\n\r\nhello"
NAMES = {"10.244.1.3": "default/client", "10.96.0.20": "default/hello:http", "10.244.2.9": "default/b"}


def copy(
    node: str,
    inbound: bool,
    when: float,
    source: tuple[str, int],
    to: tuple[str, int],
    flags: str,
    data: bytes = b"",
) -> Captured:
    tcp = TCP(sport=source[1], dport=to[1], flags=flags)
    packet = IP(src=source[0], dst=to[0]) / tcp
    device = "npclient" if node == "n1" else "npb"
    return Captured(node, device, inbound, when, bytes(packet / Raw(data) if data else packet))


REQUEST = [
    copy("n1", True, 10.0, CLIENT, SERVICE, "S"),
    copy("n1", False, 10.001, SERVICE, CLIENT, "SA"),
    copy("n1", True, 10.002, CLIENT, SERVICE, "PA", GET),
    copy("n2", False, 10.003, PROXIED, POD, "S"),
    copy("n2", True, 10.004, POD, PROXIED, "SA"),
    copy("n2", False, 10.005, PROXIED, POD, "PA", GET),
    copy("n2", True, 10.006, POD, PROXIED, "PA", OK),
    copy("n1", False, 10.007, SERVICE, CLIENT, "PA", OK),
]
OTHERS = [
    copy("n2", False, 10.0035, ("10.244.1.3", 10241), POD, "PA", b"GET / HTTP/1.1\r\n\r\n"),
    copy("n2", True, 10.0045, POD, ("10.244.1.3", 10241), "PA", OK),
    Captured(
        "n2", "npb", True, 10.005, bytes(IP(src="10.244.2.9", dst="10.96.0.10") / UDP(sport=53, dport=53))
    ),
]


def test_only_the_requests_own_packets_in_the_order_of_time() -> None:
    rows = follow([*OTHERS, *reversed(REQUEST)], CLIENT, COOKIE)
    assert [(row.side, row.flags) for row in rows] == [
        ("client", "SYN"),
        ("client", "SYN,ACK"),
        ("client", "PSH,ACK"),
        ("endpoint", "SYN"),
        ("endpoint", "SYN,ACK"),
        ("endpoint", "PSH,ACK"),
        ("endpoint", "PSH,ACK"),
        ("client", "PSH,ACK"),
    ]


def test_a_flow_without_proxy_is_told_apart_by_the_link_it_was_seen_at() -> None:
    there = copy("n1", True, 1.0, CLIENT, POD, "S")
    here = copy("n2", False, 1.1, CLIENT, POD, "S")
    assert [row.side for row in follow([there, here], CLIENT, COOKIE)] == ["client", "endpoint"]


def test_lines() -> None:
    rows = [row for row in follow(REQUEST, CLIENT, COOKIE) if row.side == "endpoint"]
    assert render(rows, NAMES) == [
        "10.244.1.3:10240 (default/client) -> 10.244.2.9:8080 (default/b)  [n2 npb]",
        "      0.00 ms -> SYN",
        "      1.00 ms <- SYN,ACK",
        f"      2.00 ms -> PSH,ACK {len(GET)} bytes  GET /?netplane-probe=abc HTTP/1.1",
        f"      3.00 ms <- PSH,ACK {len(OK)} bytes  HTTP/1.1 200 OK",
    ]


def test_nothing_captured_is_nothing_seen() -> None:
    assert follow([], CLIENT, COOKIE) == []
    assert render([], {}) == []
