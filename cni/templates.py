"""Netlink messages for the hot path: encoded once by pyroute2, then filled at fixed offsets.

pyroute2 takes a third of a millisecond to encode one message, an ADD needs a dozen. So each shape of message is
encoded twice at its first use, with values that differ in every byte; where the bytes differ is where the values
go. Nothing here knows a layout: what pyroute2 writes is what is sent, and a test compares byte by byte.
"""

import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pyroute2.netlink import nla, nlmsg
from pyroute2.netlink.nfnetlink import nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import nft_set_elem_list_msg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

REQUEST, ACK, EXCL, REPLACE, CREATE, APPEND = 0x1, 0x4, 0x200, 0x100, 0x400, 0x800  # netlink(7)
DUMP = 0x300
NEWLINK, DELLINK, GETLINK, SETLINK, NEWADDR, NEWROUTE, DELROUTE, GETROUTE, NEWNEIGH = (
    16,
    17,
    18,
    19,
    20,
    24,
    25,
    26,
    28,
)  # rtnetlink(7)
NFT_NEWSETELEM, NFT_DELSETELEM = 0x0A0C, 0x0A0E  # NFNL_SUBSYS_NFTABLES << 8 | message
BATCH_BEGIN, BATCH_END = 0x10, 0x11
_NFTABLES = 10
_IFF_UP = 1
_SKIP_STATISTICS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_NODAD = 0x02
_PERMANENT = 0x80
_ONLINK = 4
_MAIN_TABLE, _LOCAL_TABLE = 254, 255
_SCOPE_GLOBAL, _SCOPE_LINK = 0, 253
_UNICAST, _LOCAL = 1, 2  # rtm_type
_KERNELS_OWN = 2  # RTPROT_KERNEL
_ADDR_GEN_MODE_NONE = 1  # IN6_ADDR_GEN_MODE_NONE
_NUMBER = struct.Struct("=I")
_SEQUENCE, _ACK_BYTE = 8, 6 if sys.byteorder == "little" else 7  # in struct nlmsghdr

# What a host's end may and may not do: ipv4_devconf numbers of FORWARDING, ACCEPT_REDIRECTS, RP_FILTER and, for
# pods with mapped ports, ROUTE_LOCALNET.
LINK_SETTINGS: Mapping[int, int] = {1: 1, 4: 0, 8: 1}
LOCALNET: Mapping[int, int] = {**LINK_SETTINGS, 26: 1}

Encode = Callable[..., bytes]


@dataclass(frozen=True, slots=True)
class Field:
    """How one value looks to pyroute2 (two samples without a byte in common) and in the message."""

    samples: tuple[Any, Any]
    pack: Callable[[Any], bytes]


NUMBER = Field((0x55555555, 0x2A2A2A2A), _NUMBER.pack)
MAC = Field(("55:55:55:55:55:55", "aa:aa:aa:aa:aa:aa"), lambda text: bytes.fromhex(text.replace(":", "")))
ADDRESS: Mapping[int, Field] = {
    version: Field((make("U" * size), make("\xaa" * size)), lambda address: address.packed)
    for version, size, make in (
        (4, 4, lambda text: IPv4Address(text.encode("latin-1"))),
        (6, 16, lambda text: IPv6Address(text.encode("latin-1"))),
    )
}


def text(size: int) -> Field:
    """A name or a line of ``size`` bytes."""
    return Field(("U" * size, "*" * size), str.encode)


def raw(size: int) -> Field:
    """``size`` bytes as they are."""
    return Field((b"U" * size, b"\xaa" * size), bytes)


class Template:
    """One shape of message."""

    def __init__(self, encode: Encode, fields: Mapping[str, Field]) -> None:
        self.encode, self.fields = encode, fields
        first = {name: field.samples[0] for name, field in fields.items()}
        self._data = encode(**first)
        self._places: dict[str, tuple[Callable[[Any], bytes], list[slice]]] = {}
        for name, field in fields.items():
            other = encode(**{**first, name: field.samples[1]})
            changed = [i for i, (a, b) in enumerate(zip(self._data, other, strict=True)) if a != b]
            size = len(field.pack(field.samples[0]))
            self._places[name] = field.pack, [slice(start, start + size) for start in changed[::size]]

    def fill(self, **values: Any) -> bytearray:
        """The message with these values, its sequence number 0."""
        message = bytearray(self._data)
        for name, value in values.items():
            pack, places = self._places[name]
            packed = pack(value)
            for place in places:
                message[place] = packed
        return message


def stamp(message: bytearray, number: int) -> None:
    """Give a message its sequence number."""
    _NUMBER.pack_into(message, _SEQUENCE, number)


def acknowledge(message: bytearray) -> None:
    """Have the kernel answer a message that succeeds, too."""
    message[_ACK_BYTE] |= ACK


def _encoded(message: Any, kind: int, options: int, attributes: list[Any], **fields: Any) -> bytes:
    message["header"]["type"], message["header"]["flags"] = kind, REQUEST | options
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


# --- rtnetlink --------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def veth(host_size: int, pod_size: int) -> Template:
    """A pair, both down, the pod's end in the namespace of a descriptor; names of these many bytes.

    One queue each: by default there are as many as processors, each with files below /sys that take time to make.
    """

    def encode(
        index: int, host: str, host_mac: str, pod: str, pod_mac: str, mtu: int, group: int, netns: int
    ) -> bytes:
        queues = [("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1)]
        far = [("IFLA_IFNAME", pod), ("IFLA_ADDRESS", pod_mac), ("IFLA_MTU", mtu), ("IFLA_NET_NS_FD", netns)]
        peer = {"index": index, "attrs": far + queues}
        data = {"attrs": [("VETH_INFO_PEER", peer)]}
        info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
        near = [("IFLA_IFNAME", host), ("IFLA_ADDRESS", host_mac), ("IFLA_MTU", mtu), ("IFLA_GROUP", group)]
        attributes = [*near, *queues, ("IFLA_LINKINFO", info)]
        return _encoded(ifinfmsg(), NEWLINK, CREATE | EXCL, attributes, index=index)

    names = {"host": text(host_size), "pod": text(pod_size), "host_mac": MAC, "pod_mac": MAC}
    return Template(encode, {"index": NUMBER, **names, "mtu": NUMBER, "group": NUMBER, "netns": NUMBER})


class _Settings(nla):  # type: ignore[misc]  # pyroute2 is untyped
    """IFLA_INET_CONF as the kernel reads it: an attribute a setting. pyroute2 knows what the kernel writes."""

    nla_map = tuple((number, f"SETTING_{number}", "uint32") for number in LOCALNET)


class _Inet(nla):  # type: ignore[misc]
    nla_map = ((1, "IFLA_INET_CONF", "settings"),)
    settings = _Settings


class _Inet6(nla):  # type: ignore[misc]
    nla_map = ((8, "IFLA_INET6_ADDR_GEN_MODE", "uint8"),)


class _Families(nla):  # type: ignore[misc]
    nla_map = ((socket.AF_INET, "AF_INET", "inet"), (socket.AF_INET6, "AF_INET6", "inet6"))
    inet, inet6 = _Inet, _Inet6


class _Link(nlmsg):  # type: ignore[misc]
    """A link message whose IFLA_AF_SPEC can be encoded."""

    fields = ifinfmsg.fields
    nla_map = ((20, "IFLA_IFALIAS", "asciiz"), (26, "IFLA_AF_SPEC", "families"))
    families = _Families


_NO_LINK_LOCAL = ("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})


@lru_cache(maxsize=256)
def label(size: int, *, localnet: bool, ipv6: bool) -> Template:
    """The alias of a link, with it ``LINK_SETTINGS`` or ``LOCALNET``, and that it needs no link-local address."""

    def encode(index: int, alias: str) -> bytes:
        wanted = LOCALNET if localnet else LINK_SETTINGS
        settings = [(f"SETTING_{number}", value) for number, value in wanted.items()]
        families: list[Any] = [("AF_INET", {"attrs": [("IFLA_INET_CONF", {"attrs": settings})]})]
        families += [_NO_LINK_LOCAL] if ipv6 else []
        attributes = [("IFLA_IFALIAS", alias), ("IFLA_AF_SPEC", {"attrs": families})]
        return _encoded(_Link(), SETLINK, 0, attributes, index=index)

    return Template(encode, {"index": NUMBER, "alias": text(size)})


@lru_cache(maxsize=1)
def no_link_local() -> Template:
    """Keep a link from making itself an IPv6 address; before it is up."""

    def encode(index: int) -> bytes:
        attributes = [("IFLA_AF_SPEC", {"attrs": [_NO_LINK_LOCAL]})]
        return _encoded(_Link(), SETLINK, 0, attributes, index=index)

    return Template(encode, {"index": NUMBER})


@lru_cache(maxsize=1)
def link_up() -> Template:
    """Bring a link up."""

    def encode(index: int) -> bytes:
        return _encoded(ifinfmsg(), SETLINK, 0, [], index=index, flags=_IFF_UP, change=_IFF_UP)

    return Template(encode, {"index": NUMBER})


@lru_cache(maxsize=1)
def get_link() -> Template:
    """Ask for a link, without its counters."""

    def encode(index: int) -> bytes:
        return _encoded(ifinfmsg(), GETLINK, 0, [("IFLA_EXT_MASK", _SKIP_STATISTICS)], index=index)

    return Template(encode, {"index": NUMBER})


@lru_cache(maxsize=16)
def regroup(size: int) -> Template:
    """Put the link of a name into a group."""

    def encode(name: str, group: int) -> bytes:
        return _encoded(ifinfmsg(), SETLINK, 0, [("IFLA_IFNAME", name), ("IFLA_GROUP", group)])

    return Template(encode, {"name": text(size), "group": NUMBER})


@lru_cache(maxsize=1)
def delete_group() -> Template:
    """Delete all links of a group at once: the kernel waits for its readers once, not once a link."""

    def encode(group: int) -> bytes:
        return _encoded(ifinfmsg(), DELLINK, 0, [("IFLA_GROUP", group)])

    return Template(encode, {"group": NUMBER})


@lru_cache(maxsize=2)
def address(version: int) -> Template:
    """An address with a full-length prefix; IPv6 usable at once."""

    def encode(index: int, address: object) -> bytes:
        shown, own = str(address), [] if version == 6 else [("IFA_LOCAL", str(address))]
        attributes = [*own, ("IFA_ADDRESS", shown)]
        length, flags = (32, 0) if version == 4 else (128, _NODAD)
        fields = {"family": _family(version), "prefixlen": length, "flags": flags, "index": index}
        return _encoded(ifaddrmsg(), NEWADDR, CREATE | EXCL, attributes, **fields)

    return Template(encode, {"index": NUMBER, "address": ADDRESS[version]})


@lru_cache(maxsize=2)
def neighbour(version: int) -> Template:
    """A permanent entry, in the place of whatever is there."""

    def encode(index: int, address: object, mac: str) -> bytes:
        fields = {"family": _family(version), "ifindex": index, "state": _PERMANENT}
        attributes = [("NDA_DST", str(address)), ("NDA_LLADDR", mac)]
        return _encoded(ndmsg(), NEWNEIGH, CREATE | REPLACE, attributes, **fields)

    return Template(encode, {"index": NUMBER, "address": ADDRESS[version], "mac": MAC})


@lru_cache(maxsize=2)
def host_route(version: int, protocol: int) -> Template:
    """To one address on the link, in the place of whatever is there."""

    def encode(index: int, address: object) -> bytes:
        attributes = [("RTA_TABLE", _MAIN_TABLE), ("RTA_DST", str(address)), ("RTA_OIF", index)]
        scope = _SCOPE_LINK if version == 4 else _SCOPE_GLOBAL
        fields = {"dst_len": 32 if version == 4 else 128, "scope": scope, **_route(version, protocol)}
        return _encoded(rtmsg(), NEWROUTE, CREATE | REPLACE, attributes, **fields)

    return Template(encode, {"index": NUMBER, "address": ADDRESS[version]})


@lru_cache(maxsize=1)
def local_route(protocol: int) -> Template:
    """Of an IPv6 address of this host, beside the one that the kernel makes."""

    def encode(index: int, address: object) -> bytes:
        attributes = [("RTA_TABLE", _LOCAL_TABLE), ("RTA_DST", str(address)), ("RTA_OIF", index)]
        fields = {**_route(6, protocol), "dst_len": 128, "type": _LOCAL, "table": _LOCAL_TABLE}
        return _encoded(rtmsg(), NEWROUTE, CREATE | REPLACE, attributes, **fields)

    return Template(encode, {"index": NUMBER, "address": ADDRESS[6]})


@lru_cache(maxsize=2)
def default_route(version: int, protocol: int) -> Template:
    """By a gateway that is on the link although no prefix says so; beside what is there, not in its place."""

    def encode(index: int, gateway: object) -> bytes:
        attributes = [("RTA_TABLE", _MAIN_TABLE), ("RTA_GATEWAY", str(gateway)), ("RTA_OIF", index)]
        fields = {"flags": _ONLINK, "scope": _SCOPE_GLOBAL, **_route(version, protocol)}
        return _encoded(rtmsg(), NEWROUTE, CREATE | APPEND, attributes, **fields)

    return Template(encode, {"index": NUMBER, "gateway": ADDRESS[version]})


@lru_cache(maxsize=1)
def no_multicast_route() -> Template:
    """Take away the route to ff00::/8 on a link that the kernel makes when the link has a carrier."""

    def encode(index: int) -> bytes:
        attributes = [("RTA_TABLE", _LOCAL_TABLE), ("RTA_DST", "ff00::"), ("RTA_OIF", index)]
        fields = {"family": socket.AF_INET6, "dst_len": 8, "table": _LOCAL_TABLE, "proto": _KERNELS_OWN}
        return _encoded(rtmsg(), DELROUTE, 0, attributes, **fields)

    return Template(encode, {"index": NUMBER})


@lru_cache(maxsize=2)
def get_routes(family: int) -> Template:
    """Ask for all routes of a family."""
    return Template(lambda: _encoded(rtmsg(), GETROUTE, DUMP, [], family=family), {})


def _route(version: int, protocol: int) -> dict[str, int]:
    return {"family": _family(version), "table": _MAIN_TABLE, "proto": protocol, "type": _UNICAST}


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


# --- nfnetlink --------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def batch(kind: int) -> Template:
    """BATCH_BEGIN or BATCH_END: what is between is one transaction."""

    def encode() -> bytes:
        return _encoded(nfgen_msg(), kind, 0, [], res_id=_NFTABLES)

    return Template(encode, {})


@lru_cache(maxsize=64)
def element(kind: int, family: int, table: str, name: str, key_size: int, value_size: int) -> Template:
    """One element of a set, or of a map: with a value of these many bytes."""

    def encode(key: bytes, value: bytes = b"") -> bytes:
        found: list[Any] = [("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", key)]})]
        if value_size:
            found.append(("NFTA_SET_ELEM_DATA", {"attrs": [("NFTA_DATA_VALUE", value)]}))
        attributes = [
            ("NFTA_SET_ELEM_LIST_TABLE", table),
            ("NFTA_SET_ELEM_LIST_SET", name),
            ("NFTA_SET_ELEM_LIST_ELEMENTS", [{"attrs": found}]),
        ]
        flags = CREATE if kind == NFT_NEWSETELEM else 0
        return _encoded(nft_set_elem_list_msg(), kind, flags, attributes, nfgen_family=family)

    fields = {"key": raw(key_size)}
    return Template(encode, {**fields, "value": raw(value_size)} if value_size else fields)
