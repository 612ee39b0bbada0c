"""Bytes in, bytes out: what a client on the network may send, and what it gets for it.

Anything can arrive here. A message that cannot be read gets FORMERR when it has a header to answer to, and
nothing otherwise; an answer is never larger than its way back takes (it says TC, and the client comes by TCP).
"""

import logging
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rdataclass
import dns.rdatatype
from dns.message import Message
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from netplane.dns.index import Index
from netplane.dns.records import Answer, Question, Zone, answer

HEADER = 12
UDP_PLAIN = 512  # RFC 1035
UDP_LIMIT = 1232  # fits one IPv6 packet of minimum size (DNS Flag Day 2020)
TCP_LIMIT = 65535
TRANSFERS = frozenset({RdataType.AXFR, RdataType.IXFR})
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Query:
    """A question that was read, with the message to answer to."""

    message: Message
    question: Question


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is answered without looking at names; ``wire`` is None where nothing goes back."""

    wire: bytes | None
    rcode: Rcode


def read(wire: bytes) -> Query | Rejected:
    """The one question of a message, or what to say instead. Never raises."""
    if len(wire) < HEADER or wire[2] & 0x80:
        return Rejected(None, Rcode.FORMERR)  # no header to answer to, or itself an answer
    try:
        message = dns.message.from_wire(wire)
    except Exception as error:  # noqa: BLE001 - whatever its parser trips over, the bytes are the client's
        log.debug("malformed query: %r", error)
        return Rejected(_header_only(wire, Rcode.FORMERR), Rcode.FORMERR)
    if message.opcode() != dns.opcode.QUERY:
        return Rejected(_header_only(wire, Rcode.NOTIMP), Rcode.NOTIMP)
    if len(message.question) != 1:
        return Rejected(_header_only(wire, Rcode.FORMERR), Rcode.FORMERR)
    asked = message.question[0]
    if asked.rdclass != dns.rdataclass.IN or asked.rdtype in TRANSFERS:
        return Rejected(_header_only(wire, Rcode.REFUSED), Rcode.REFUSED)
    return Query(message, Question(asked.name, dns.rdatatype.RdataType.make(asked.rdtype)))


def resolve(query: Query, zone: Zone, index: Index) -> Answer | None:
    """The records for a query; None where the name is not ours."""
    try:
        return answer(query.question, zone, index)
    except dns.exception.DNSException:
        # An object of the API that makes no valid name, such as a label of more than 63 bytes.
        log.warning("cannot answer %s: a name in the API is no DNS name", query.question.name, exc_info=True)
        return Answer(Rcode.SERVFAIL)


def render(query: Query, found: Answer, *, limit: int) -> bytes:
    """The answer on the wire, cut to its header and TC where it exceeds ``limit`` bytes."""
    response = dns.message.make_response(query.message, recursion_available=True)
    response.flags |= dns.flags.AA
    response.set_rcode(found.rcode)
    response.answer.extend(found.records)
    response.authority.extend(found.authority)
    response.additional.extend(found.additional)
    return to_wire(response, limit)


def to_wire(response: Message, limit: int) -> bytes:
    """A message within ``limit`` bytes: whole, without its extras, or with TC and no records."""
    for attempt in range(3):
        if attempt == 1:
            response.additional.clear()
        if attempt == 2:
            response.answer.clear()
            response.authority.clear()
            response.flags |= dns.flags.TC
        try:
            return response.to_wire(max_size=max(limit, UDP_PLAIN))
        except dns.exception.TooBig:
            continue
    raise AssertionError("a question and a header always fit")


def udp_limit(query: Query) -> int:
    """How much the client takes in one datagram (EDNS, RFC 6891), never more than fits the path."""
    message = query.message
    return min(max(message.payload, UDP_PLAIN), UDP_LIMIT) if message.edns >= 0 else UDP_PLAIN


def _header_only(wire: bytes, rcode: Rcode) -> bytes:
    """The query's header as an answer with no sections: all that can be said to bytes that make no sense."""
    opcode_and_recursion = wire[2] & 0x79
    return wire[:2] + bytes((0x80 | opcode_and_recursion, rcode)) + bytes(8)
