"""Rules of nftables as the kernel takes them: a chain of small instructions on registers (linux/netfilter/nf_tables.h).

Why beside libnftables: its parser reads a map of a generated index back wrongly (1.0.6: "th" becomes "tcp", or an
error), and ends the process over a rule that remembers an IPv6 client. These rules are few and of one form; what
``nft list`` shows of them is the rule as one would have written it.
"""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from netplane.linux.nlattr import attribute, number, text

Expression = bytes

_NAME, _BODY, _LIST_ELEMENT, _VALUE = 1, 2, 1, 1
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_…_HEADER
_PRIORITY, _MARK, _NFPROTO, _L4PROTO = 2, 3, 15, 16  # NFT_META_…
_CT_PROTO_DST, _CT_DST = 12, {4: 20, 6: 22}  # NFT_CT_…
_ORIGINAL = 0
_RANDOM = 1  # NFT_NG_RANDOM
_DNAT = 1
_MAP_IPS_AND_PORTS = 3  # NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED
_UPDATE = 1  # NFT_DYNSET_OP_UPDATE
_EQUAL = 0
_DESTINATION = {4: (16, 4), 6: (24, 16)}  # offset and size in the network header
_SOURCE = {4: (12, 4), 6: (8, 16)}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}  # NFPROTO_IPV4 and NFPROTO_IPV6 have the same numbers

FIRST = 8  # NFT_REG32_00; each register has four bytes, and a longer value takes several


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that is not a base chain, and its rules, whatever it had before."""

    name: str
    rules: Sequence[Sequence[Expression]]


def load(register: int, *parts: tuple[str, int]) -> tuple[list[Expression], int]:
    """Put values side by side from a register on; the instructions, and the register after the last.

    A part is (what, IP version): ``destination``, ``source``, ``protocol``, ``port`` (destination port), ``noted``, and
    of the connection as its client began it ``called`` (address) and ``called port``.
    """
    made = []
    for what, version in parts:
        expression, size = _part(what, version, register)
        made.append(expression)
        register += size
    return made, register


def only(version: int) -> list[Expression]:
    """Go on with packets of this IP version only (``nft list`` names headers by it)."""
    wanted = attribute(_VALUE, bytes((_FAMILY[version],)))
    compare = number(1, FIRST) + number(2, _EQUAL) + attribute(3, wanted)
    return [_meta(FIRST, _NFPROTO), _expression("cmp", compare)]


def mark(bits: int) -> list[Expression]:
    """Set bits of the packet's mark."""
    mask = attribute(4, attribute(_VALUE, struct.pack("=I", ~bits & 0xFFFFFFFF)))
    flip = attribute(5, attribute(_VALUE, struct.pack("=I", bits)))
    change = number(1, FIRST) + number(2, FIRST) + number(3, 4) + mask + flip
    store = number(2, _MARK) + number(3, FIRST)
    return [_meta(FIRST, _MARK), _expression("bitwise", change), _expression("meta", store)]


def choice(register: int, count: int) -> Expression:
    """A number below ``count``, at random."""
    body = number(1, register) + number(2, count) + number(3, _RANDOM) + number(4, 0)
    return _expression("numgen", body)


def look_up(name: str, register: int = FIRST) -> Expression:
    """Replace the key by what a map has for it; a key that it lacks ends the rule."""
    return _expression("lookup", text(1, name) + number(2, register) + number(3, register) + number(5, 0))


def note(register: int = FIRST) -> Expression:
    """Write a number down in the packet's priority, where later rules find it (``noted``).

    Why there: ``nft list`` ends by an assertion over a key that is made of what a map had (1.0.6), so rules can hand on
    a value only by way of the packet. Of a packet that arrives it is 0, and the kernel sets it anew where it forwards.
    """
    return _expression("meta", number(2, _PRIORITY) + number(3, register))


def constant(value: int, register: int = FIRST) -> Expression:
    """A number."""
    body = number(1, register) + attribute(2, attribute(_VALUE, struct.pack("=I", value)))
    return _expression("immediate", body)


def dnat(version: int, address: int, port: int) -> Expression:
    """Translate the destination, to what is in these registers."""
    places = number(3, address) + number(4, address) + number(5, port) + number(6, port)
    return _expression(
        "nat", number(1, _DNAT) + number(2, _FAMILY[version]) + places + number(7, _MAP_IPS_AND_PORTS)
    )


def remember(name: str, key: int, value: int, seconds: int) -> Expression:
    """Add to a map, or renew there, for so many seconds."""
    body = text(1, name) + number(3, _UPDATE) + number(4, key) + number(5, value)
    return _expression("dynset", body + attribute(6, struct.pack("!Q", seconds * 1000)))


def registers(version: int) -> int:
    """How many an address takes."""
    return _DESTINATION[version][1] // 4


def _expression(name: str, body: bytes) -> Expression:
    return attribute(_LIST_ELEMENT, text(_NAME, name) + attribute(_BODY, body))


def _meta(register: int, key: int) -> Expression:
    return _expression("meta", number(2, key) + number(1, register))


def _payload(register: int, base: int, offset: int, size: int) -> tuple[Expression, int]:
    body = number(1, register) + number(2, base) + number(3, offset) + number(4, size)
    return _expression("payload", body), (size + 3) // 4


def _ct(register: int, key: int, size: int) -> tuple[Expression, int]:
    body = number(2, key) + number(1, register) + attribute(3, bytes((_ORIGINAL,)))
    return _expression("ct", body), size


def _part(what: str, version: int, register: int) -> tuple[Expression, int]:
    match what:
        case "destination":
            return _payload(register, _NETWORK, *_DESTINATION[version])
        case "source":
            return _payload(register, _NETWORK, *_SOURCE[version])
        case "noted":
            return _meta(register, _PRIORITY), 1
        case "protocol":
            return _meta(register, _L4PROTO), 1
        case "port":
            return _payload(register, _TRANSPORT, 2, 2)
        case "called":
            return _ct(register, _CT_DST[version], registers(version))
        case "called port":
            return _ct(register, _CT_PROTO_DST, 1)
        case _:
            raise ValueError(what)
