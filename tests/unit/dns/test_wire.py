"""Whatever arrives: a well-formed answer, or nothing; never an exception."""

import asyncio
from ipaddress import ip_address, ip_network
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.rdataclass
import pytest
from dns.rcode import Rcode
from hypothesis import given
from hypothesis import strategies as st

from netplane.dns.answerer import Answerer, Pending
from netplane.dns.forward import Forwarder, Resolver
from netplane.dns.index import Index
from netplane.dns.records import Zone
from netplane.dns.server import Settings
from netplane.kube.cache import ADDED, Change


def answerer(endpoints: int = 2, forward_to: tuple[str, ...] = ()) -> Answerer:
    index = Index(synced=True)
    metadata: dict[str, Any] = {"namespace": "default", "name": "db"}
    spec = {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}
    index.service_changed(Change(ADDED, None, {"metadata": metadata, "spec": spec}))
    addresses = [{"addresses": [f"10.244.{i // 250}.{i % 250}"]} for i in range(endpoints)]
    metadata = {**metadata, "labels": {"kubernetes.io/service-name": "db"}}
    index.slice_changed(Change(ADDED, None, {"metadata": metadata, "endpoints": addresses}))
    zone = Zone.of("cluster.local", (ip_network("10.96.0.0/12"),), (ip_address("10.96.0.10"),))
    return Answerer(zone, index, Forwarder([Resolver.parse(text) for text in forward_to]))


DB = "db.default.svc.cluster.local"


def ask(server: Answerer, query: dns.message.Message, *, tcp: bool = False) -> dns.message.Message:
    wire = server.prompt(query.to_wire(), tcp=tcp)
    assert isinstance(wire, bytes)
    return dns.message.from_wire(wire)


def test_an_answer() -> None:
    query = dns.message.make_query("DB.default.svc.cluster.local", "A")
    response = ask(answerer(), query)
    assert query.is_response(response)
    assert response.flags & dns.flags.AA
    assert response.question[0].name.to_text() == "DB.default.svc.cluster.local."
    assert {rdata.to_text() for rdata in response.answer[0]} == {"10.244.0.0", "10.244.0.1"}


@pytest.mark.parametrize(
    ("endpoints", "edns", "tcp", "truncated"),
    [
        (20, False, False, False),
        (60, False, False, True),
        (60, True, False, False),
        (60, False, True, False),
        (200, True, False, True),
        (4000, False, True, False),
        (4200, False, True, True),
    ],
)
def test_an_answer_is_cut_to_what_its_way_takes(
    endpoints: int, edns: bool, tcp: bool, truncated: bool
) -> None:
    query = dns.message.make_query(DB, "A", use_edns=0 if edns else None, payload=4096 if edns else None)
    wire = answerer(endpoints).prompt(query.to_wire(), tcp=tcp)
    assert isinstance(wire, bytes)
    assert len(wire) <= (65535 if tcp else 1232 if edns else 512)
    response = dns.message.from_wire(wire)
    assert bool(response.flags & dns.flags.TC) is truncated
    assert sum(len(rrset) for rrset in response.answer) == (0 if truncated else endpoints)


def refusals() -> list[tuple[dns.message.Message, Rcode]]:
    notify = dns.message.make_query(DB, "A")
    notify.set_opcode(dns.opcode.NOTIFY)
    two = dns.message.make_query(DB, "A")
    two.question.append(two.question[0])
    return [
        (dns.message.make_query("example.com", "A"), Rcode.REFUSED),
        (dns.message.make_query("cluster.local", "AXFR"), Rcode.REFUSED),
        (dns.message.make_query("version.bind", "TXT", dns.rdataclass.CHAOS), Rcode.REFUSED),
        (notify, Rcode.NOTIMP),
        (two, Rcode.FORMERR),
    ]


@pytest.mark.parametrize(("query", "rcode"), refusals())
def test_what_is_not_served_is_refused_by_name(query: dns.message.Message, rcode: Rcode) -> None:
    response = ask(answerer(), query)
    assert (response.rcode(), response.id) == (rcode, query.id)


@pytest.mark.parametrize(
    "wire",
    [b"", b"short", dns.message.make_response(dns.message.make_query(DB, "A")).to_wire()],
    ids=["nothing", "too short", "a response"],
)
def test_what_cannot_be_answered_is_dropped(wire: bytes) -> None:
    assert answerer().prompt(wire) is None


SERVER = answerer()


@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(st.binary(min_size=12, max_size=12), st.integers(0, 3), st.binary(max_size=60))
def test_any_header_with_any_question(header: bytes, count: int, rest: bytes) -> None:
    check(header[:4] + bytes((0, count, 0, 0, 0, 0, 0, 1 if rest[:1] == b"\x00" else 0)) + rest)


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_query_with_any_byte_changed(position: int, value: int) -> None:
    query = bytearray(dns.message.make_query(f"_http._tcp.{DB}", "SRV", use_edns=0).to_wire())
    query[position % len(query)] = value
    check(bytes(query))


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.integers(0, 65535))
def test_any_labels_below_our_zone(labels: list[bytes], kind: int) -> None:
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\x07cluster\x05local\x00"
    check(b"\x12\x34\x01\x00\x00\x01" + bytes(6) + name + kind.to_bytes(2, "big") + b"\x00\x01")


def check(data: bytes) -> None:
    found = SERVER.prompt(data)
    assert not isinstance(found, Pending)
    if found is not None:
        response = dns.message.from_wire(found)
        assert response.flags & dns.flags.QR
        assert found[:2] == data[:2]
        assert len(found) <= 1232


async def test_a_forwarded_name_without_answer_fails_in_bounded_time() -> None:
    # Port 9 of loopback: refused at once, so each resolver is tried and none answers.
    server = answerer(forward_to=("127.0.0.1:9",))
    pending = server.prompt(dns.message.make_query("example.com", "A").to_wire())
    assert isinstance(pending, Pending)
    response = dns.message.from_wire(await asyncio.wait_for(server.later(pending, tcp=False), 10))
    assert response.rcode() == Rcode.SERVFAIL


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 53),
        ("192.0.2.1:5353", "192.0.2.1", 5353),
        ("2001:db8::1", "2001:db8::1", 53),
        ("[2001:db8::1]:5353", "2001:db8::1", 5353),
    ],
)
def test_resolver_addresses(text: str, address: str, port: int) -> None:
    assert Resolver.parse(text) == Resolver(ip_address(address), port)


@pytest.mark.parametrize("text", ["dns.example", "192.0.2.1:x", "192.0.2.1:0", ""])
def test_a_resolver_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="forwardTo"):
        Resolver.parse(text)


def test_settings_refuse_a_loop_an_empty_list_and_a_bad_domain() -> None:
    with pytest.raises(ValueError, match="this server itself"):
        Settings(forward_to=("10.96.0.10",))
    with pytest.raises(ValueError, match="addresses"):
        Settings(addresses=())
    with pytest.raises(ValueError, match="not a DNS name"):
        Settings(cluster_domain="..")
