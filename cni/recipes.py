"""ADDs worked out beforehand. Pods of one network differ in a few values: names, addresses, numbers, and these are
at the same places of the same messages, and of the same answer. So what ``plan`` says is worked out for a sample of
each kind of pod, once; for a pod only its values are filled in.

That saves an ADD a tenth of its time: not because the work is much, but because between two pods the processor
forgets the code for it.

Nothing here knows a message. A place is where a value of the sample is found, and all places together are tried on a
second sample: where that differs from its own messages there is no recipe, and the steps are gone through one by one.
"""

import errno
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

import orjson

from cni import messages, plan, results, templates
from cni.firewall import packed
from cni.lease import Lease, Terms
from cni.plan import CreateVeth, Firewall, NoMulticastRoute, Setting, Where
from cni.ports import PortMapping
from cni.protocol import Attachment
from netplane.config import IPAddress, IPNetwork

_NUMBER = struct.Struct("=I")
_PORTS = 16  # a pod with more of them has no recipe
_MARKS = (0xF9, 0xF6)  # in no text: UTF-8 has no such bytes
_BEGIN, _END = (bytes(templates.batch(kind).fill()) for kind in (templates.BATCH_BEGIN, templates.BATCH_END))


class Kind(NamedTuple):
    """What pods have in common whose messages differ in values of the same size."""

    ifname: str
    alias_bytes: int
    mtu: int
    exclude: tuple[IPNetwork, ...] | None
    versions: tuple[int, ...]
    ports: tuple[tuple[str, IPAddress | None, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One send, its messages numbered from 1: to rtnetlink in a namespace, or with ``where`` None to nftables.

    ``asked`` is the number of the message that is answered in any case; ``fine`` are failures, by number and errno,
    that are none.
    """

    where: Where | None
    data: bytes
    asked: int
    places: tuple[tuple[str, slice], ...]
    fine: frozenset[tuple[int, int]] = frozenset()

    def fill(self, values: Mapping[str, bytes]) -> bytearray:
        """With the values of a pod."""
        data = bytearray(self.data)
        for name, place in self.places:
            data[place] = values[name]
        return data


def kind(lease: Lease) -> Kind | None:
    """None for what few pods ask for, and only ``plan`` knows."""
    terms = lease.terms
    if (
        terms.bandwidth is not None
        or len(terms.ports) > _PORTS
        or any(p.protocol == "udp" for p in terms.ports)
    ):
        return None
    ports = tuple((port.protocol, port.host_ip, port.versions) for port in terms.ports)
    versions = tuple(address.version for address in lease.addresses)
    alias_bytes = len(messages.alias(plan.label(lease.attachment)).encode())
    return Kind(lease.attachment.ifname, alias_bytes, terms.mtu, terms.exclude, versions, ports)


def values(lease: Lease, index: int, netns: int) -> dict[str, bytes]:
    """What differs from pod to pod, as it is in messages. ``index`` is of both ends, ``netns`` a descriptor."""
    host_mac, pod_mac = plan.ends(lease)
    found = {
        "index": _NUMBER.pack(index),
        "netns": _NUMBER.pack(netns),
        "link": lease.terms.link.encode(),
        "host_mac": templates.MAC.pack(host_mac),
        "pod_mac": templates.MAC.pack(pod_mac),
        "alias": messages.alias(plan.label(lease.attachment)).encode(),
    }
    for number, address in enumerate(lease.addresses):
        found[f"address{number}"] = address.packed
    for number, port in enumerate(lease.terms.ports):
        found[f"host_port{number}"], found[f"port{number}"] = (
            packed((port.host_port,)),
            packed((port.container_port,)),
        )
    return found


Recipe = tuple[Part | Setting, ...]  # an item a batch of ``plan.attach``, the first of which makes the pair


@lru_cache(maxsize=64)
def of(wanted: Kind) -> Recipe | None:
    """None where the places cannot be told."""
    one, other = (_Sample.of(wanted, mark) for mark in _MARKS)
    found: list[Part | Setting] = []
    for batch, tried in zip(_batches(one), _batches(other), strict=True):
        made = batch if isinstance(batch, Setting) else _with_places(batch, one.values)
        filled = made if isinstance(made, Setting) else made.fill(other.values)
        if filled != (tried if isinstance(tried, Setting) else tried.data):
            return None
        found.append(made)
    return tuple(found)


# --- the answer -------------------------------------------------------------------------------------------


def answer(lease: Lease, netns: str, dns: Mapping[str, Any], wanted: Kind, version: str) -> bytes:
    """The same as of ``plan.result`` and ``results.render``, in JSON."""
    texts = _texts(lease, netns)
    pieces = [
        piece if number % 2 == 0 else texts[piece] for number, piece in enumerate(_answer(wanted, version))
    ]
    return f'{"".join(pieces)}"dns":{orjson.dumps(dns).decode()}}}\n'.encode()


@lru_cache(maxsize=64)
def _answer(wanted: Kind, version: str) -> tuple[str, ...]:
    """Text, name of a value, text, and so on."""
    sample = _Sample.of(wanted, _MARKS[0]).lease
    netns = "/sample/of/a/namespace"
    texts = {text: name for name, text in _texts(sample, netns).items()}
    document = results.render(plan.result(sample, {}, netns), version)
    assert list(document)[-1] == "dns"
    whole = orjson.dumps(document).decode().removesuffix('"dns":{}}')
    pieces = re.split("(" + "|".join(re.escape(text) for text in texts) + ")", whole)
    return tuple(piece if number % 2 == 0 else texts[piece] for number, piece in enumerate(pieces))


def _texts(lease: Lease, netns: str) -> dict[str, str]:
    host_mac, pod_mac = plan.ends(lease)
    named = {
        "link": lease.terms.link,
        "host_mac": host_mac,
        "pod_mac": pod_mac,
        "netns": orjson.dumps(netns).decode()[1:-1],
    }
    return named | {f"address{number}": str(address) for number, address in enumerate(lease.addresses)}


# --- samples ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sample:
    """A pod that there is not, whose values are like nothing else in its messages."""

    lease: Lease
    index: int
    netns: int
    values: Mapping[str, bytes]

    @classmethod
    def of(cls, wanted: Kind, mark: int) -> "_Sample":
        length = wanted.alias_bytes - len(plan.label(Attachment("", "i", wanted.ifname)).encode())
        attachment = Attachment(chr(mark & 0x7F | 0x40) * length, "i", wanted.ifname)
        link = f"np{bytes((mark, mark ^ 0x0F, mark ^ 0xF0, mark ^ 0x3C, mark ^ 0x71, mark ^ 0x17)).hex()}"
        mac = bytes((6, mark, mark ^ 0x2B, mark ^ 0xB2, mark ^ 0x4D, mark ^ 0xD4)).hex(":")
        mapped = tuple(
            PortMapping(protocol, mark << 8 | number, (mark ^ 0x03) << 8 | number, host_ip, versions)
            for number, (protocol, host_ip, versions) in enumerate(wanted.ports)
        )
        addresses = tuple(_address(version, mark, number) for number, version in enumerate(wanted.versions))
        terms = Terms(link, "", "", "", wanted.mtu, wanted.exclude, mapped, mac)
        lease, index, netns = Lease(attachment, addresses, terms), mark * 0x01030507, mark * 0x01020408
        return cls(lease, index, netns, values(lease, index, netns))


def _address(version: int, mark: int, number: int) -> IPAddress:
    octets = bytes(
        mark ^ (7 * position + 31 * number) & 0xFF for position in range(4 if version == 4 else 16)
    )
    return IPv4Address(octets) if version == 4 else IPv6Address(octets)


def _batches(sample: _Sample) -> Iterator[Part | Setting]:
    for steps in messages.batches(plan.attach(sample.lease)):
        match steps:
            case [Setting() as setting]:
                yield setting
            case [CreateVeth() as pair]:
                yield _part(Where.HOST, [messages.veth(pair, sample.index, sample.netns)])
            case [Firewall()]:
                changes = messages.elements(sample.lease, adding=True)
                yield _part(None, [bytearray(_BEGIN), *changes, bytearray(_END)], asked=1 + len(changes))
            case _:
                sent = [messages.of(step, sample.index, ipv6=True) for step in steps]
                absent = [
                    number for number, step in enumerate(steps, 1) if isinstance(step, NoMulticastRoute)
                ]
                where = Where(str(messages.place(steps[0])))
                yield _part(where, sent, fine=frozenset((number, errno.ESRCH) for number in absent))


def _part(
    where: Where | None,
    sent: Sequence[bytearray],
    asked: int | None = None,
    fine: frozenset[tuple[int, int]] = frozenset(),
) -> Part:
    number_asked = len(sent) if asked is None else asked
    for number, message in enumerate(sent, 1):
        templates.stamp(message, number)
    templates.acknowledge(sent[number_asked - 1])
    return Part(where, b"".join(sent), number_asked, (), fine)


def _with_places(part: Part, known: Mapping[str, bytes]) -> Part:
    found = [
        (name, slice(match.start(), match.end()))
        for name, value in known.items()
        for match in re.finditer(re.escape(value), part.data)
    ]
    return Part(part.where, part.data, part.asked, tuple(found), part.fine)
