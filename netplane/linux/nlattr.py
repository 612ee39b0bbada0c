"""Netlink attributes (linux/netlink.h): length, type, value, filled up to four bytes."""

import struct

_HEADER = struct.Struct("=HH")
_TYPE = 0x3FFF  # NLA_TYPE_MASK: the rest are flags


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute; what is nested is just its data."""
    size = len(data) + 4
    return _HEADER.pack(size, kind) + data + b"\0" * (-size % 4)


def number(kind: int, value: int) -> bytes:
    """A number of 32 bits in network order, as netfilter has its numbers."""
    return attribute(kind, value.to_bytes(4, "big"))


def text(kind: int, value: str) -> bytes:
    """A string with its end."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """Type → value of a row of attributes."""
    found = {}
    offset = 0
    while offset + 4 <= len(data):
        size, kind = _HEADER.unpack_from(data, offset)
        if size < 4:
            break
        found[kind & _TYPE] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found
