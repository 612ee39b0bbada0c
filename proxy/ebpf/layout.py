"""The structs of `bpf/maps.h`, once in Python: how a key or a value becomes bytes and back.

A test compares every offset and size with the BTF of the compiled object, so the two cannot drift apart. Addresses
and ports are in network byte order, numbers in the host's. IPv4 is ::ffff:a.b.c.d, as a dual-stack socket says it.
"""

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address

from proxy.model import Endpoint, Frontend, IPAddress, Protocol

# Struct → (member, format of the struct module).
FIELDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "frontend": (("address", "16s"), ("port", "2s"), ("protocol", "B"), ("unused", "B")),
    "route": (("slot", "I"), ("service", "I"), ("affinity", "I")),
    "position": (("block", "I"), ("index", "I")),
    "endpoint": (("address", "16s"), ("port", "2s"), ("local", "B"), ("terminating", "B")),
    "service": (("name", "160s"),),
    "sticker": (("who", "Q"), ("service", "I"), ("unused", "I")),
    "choice": (("endpoint", "20s"), ("unused", "I"), ("seen", "Q")),
    "origin_key": (
        *(("socket", "Q"), ("address", "16s"), ("port", "2s"), ("protocol", "B"), ("unused", "B")),
        ("more", "I"),
    ),
    "origin": (("address", "16s"), ("port", "2s"), ("unused", "H"), ("service", "I")),
}
STRUCTS = {name: struct.Struct("=" + "".join(form for _, form in fields)) for name, fields in FIELDS.items()}
NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17}  # IPPROTO_*
PROTOCOLS = {number: protocol for protocol, number in NUMBERS.items()}
NAME_BYTES = 159  # and a zero
MOST_ENDPOINTS = 0xFFFF

_MAPPED = bytes(10) + b"\xff\xff"
_FRONTEND, _ENDPOINT = STRUCTS["frontend"], STRUCTS["endpoint"]


def offsets(fields: Mapping[str, tuple[tuple[str, str], ...]], name: str) -> dict[str, int]:
    """Where each member of a struct begins."""
    places, at = {}, 0
    for member, form in fields[name]:
        places[member] = at
        at += struct.calcsize("=" + form)
    return places


def address_bytes(address: IPAddress) -> bytes:
    """struct address."""
    return _MAPPED + address.packed if address.version == 4 else address.packed


def address_of(data: bytes) -> IPAddress:
    """The address of a struct address."""
    return IPv4Address(data[12:]) if data.startswith(_MAPPED) else IPv6Address(data)


def frontend_bytes(frontend: Frontend) -> bytes:
    """struct frontend. Raises KeyError for a protocol that sockets here do not balance."""
    port = frontend.port.to_bytes(2, "big")
    return _FRONTEND.pack(address_bytes(frontend.address), port, NUMBERS[frontend.protocol], 0)


def frontend_of(data: bytes) -> Frontend:
    """The frontend of a struct frontend."""
    address, port, protocol, _ = _FRONTEND.unpack(data)
    return Frontend(address_of(address), int.from_bytes(port, "big"), PROTOCOLS[protocol])


def endpoint_bytes(endpoint: Endpoint) -> bytes:
    """struct endpoint."""
    port = endpoint.port.to_bytes(2, "big")
    return _ENDPOINT.pack(address_bytes(endpoint.address), port, endpoint.local, endpoint.terminating)


def endpoint_of(data: bytes) -> Endpoint:
    """The endpoint of a struct endpoint."""
    address, port, local, terminating = _ENDPOINT.unpack(data)
    return Endpoint(address_of(address), int.from_bytes(port, "big"), bool(local), bool(terminating))


def slot_word(block: int, count: int) -> int:
    """What a slot holds."""
    return count << 32 | block


def slot_parts(word: int) -> tuple[int, int]:
    """Block and count of a slot."""
    return word & 0xFFFFFFFF, word >> 32 & 0xFFFF
