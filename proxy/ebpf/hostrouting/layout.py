"""The structs of `bpf/pods.h`, once in Python: how a key or value becomes bytes and back (see `proxy.ebpf.layout`)."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.ebpf.layout import address_bytes, address_of
from proxy.model import IPAddress

FIELDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "pod": (("link", "I"), ("ready", "I")),
    "flow": (
        *(("low", "16s"), ("high", "16s"), ("low_port", "2s"), ("high_port", "2s")),
        *(("protocol", "B"), ("unused", "3s")),
    ),
}
STRUCTS = {name: struct.Struct("=" + "".join(form for _, form in fields)) for name, fields in FIELDS.items()}
_POD, _FLOW = STRUCTS["pod"], STRUCTS["flow"]
End = tuple[IPAddress, int]  # address, port


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of what two pods say to each other. ``protocol``: IPPROTO_*."""

    protocol: int
    one: End
    other: End

    @property
    def packed(self) -> bytes:
        """struct flow."""
        (low, low_port), (high, high_port) = sorted((self.one, self.other), key=_order)
        ports = (low_port.to_bytes(2, "big"), high_port.to_bytes(2, "big"))
        return _FLOW.pack(address_bytes(low), address_bytes(high), *ports, self.protocol, b"\0\0\0")


def _order(end: End) -> tuple[int, ...]:
    """As ``is_lower`` in `bpf/pods.bpf.c` compares addresses."""
    return struct.unpack("=4I", address_bytes(end[0]))[::-1]


def ends_of(data: bytes) -> Ends:
    """The ends of a struct flow."""
    low, high, low_port, high_port, protocol, _ = _FLOW.unpack(data)
    one = (address_of(low), int.from_bytes(low_port, "big"))
    return Ends(protocol, one, (address_of(high), int.from_bytes(high_port, "big")))


def pod_bytes(link: int, *, ready: bool) -> bytes:
    """struct pod."""
    return _POD.pack(link, ready)


def pod_of(data: bytes) -> tuple[int, bool]:
    """Link and readiness of a struct pod."""
    link, ready = _POD.unpack(data)
    return link, bool(ready)
