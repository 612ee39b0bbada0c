"""What reaches pods of this node by the host's stack because the stack has a part in it, as the kernel knows now.

Such flows are written down by a program as their packets pass (`bpf/pods.bpf.c`). This is for those that were there
before the program, and tells which of the written ones have ended: conntrack has the translated ones, and the relay's
have a socket here with a pod's address. Blocking.
"""

import re
from collections.abc import Callable, Collection, Iterator
from ipaddress import ip_address
from itertools import takewhile

from netplane.linux import conntrack
from netplane.linux.conntrack import BOTH, DST_NAT, EVERYTHING, SRC_NAT, TCP, UDP, Flow, Wanted, Way
from netplane.linux.sockdiag import Sockets
from proxy.ebpf.hostrouting.layout import Ends
from proxy.model import IPAddress

HERE = "/proc/thread-self/ns/net"
_PORTS = (TCP, UDP)


def flows(pods: Collection[IPAddress]) -> set[Ends]:
    """All that must go on by the stack, by its ends as the pods that receive it see them. Raises KernelError."""
    found = (*_translated(pods), *_relayed())
    return {ends for ends in found if ends.one[0] in pods and ends.other[0] in pods}


def forget_plain(pods: Collection[IPAddress]) -> None:
    """Forget the connections between pods that conntrack will not see any more, and that nothing was changed of.

    Else it would know them as they were when they come back to the stack, and call them invalid. Raises KernelError.
    """

    def is_plain(flow: Flow) -> bool:
        ends = (flow.called.source, flow.called.destination)
        nat = flow.status & (SRC_NAT | DST_NAT)
        return not nat and flow.protocol in _PORTS and all(ip_address(end) in pods for end in ends)

    conntrack.forget(filter(is_plain, conntrack.flows(BOTH, EVERYTHING, worth=between(pods))))


def _translated(pods: Collection[IPAddress]) -> Iterator[Ends]:
    """As the endpoint sees it, and (where only a port was changed) as its caller does."""
    for status in (DST_NAT, SRC_NAT):
        for flow in conntrack.flows(BOTH, Wanted(status), worth=between(pods)):
            if flow.protocol in _PORTS:
                yield _ends(flow.protocol, flow.answers)
                yield _ends(flow.protocol, flow.called)


def between(pods: Collection[IPAddress]) -> Callable[[bytes], bool]:
    """Whether an entry of conntrack, packed, may have two of these at the ends of one direction.

    All pods of a node have a network's first bytes in common, and most entries of a large table have one such end at
    most: they come from outside, or go there. So these are not read, which would take seconds whenever a pod comes.
    """
    packed: dict[int, list[bytes]] = {}
    for pod in pods:
        packed.setdefault(pod.version, []).append(pod.packed)
    patterns = [_two_that_begin(version, _common(some)) for version, some in packed.items()]
    return lambda body: any(pattern.search(body) for pattern in patterns)


def _common(some: Collection[bytes]) -> bytes:
    """The first bytes of all of them."""
    pairs = zip(min(some), max(some), strict=True)
    return bytes(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _two_that_begin(version: int, prefix: bytes) -> re.Pattern[bytes]:
    alike, rest = re.escape(prefix), b".{%d}" % ((4 if version == 4 else 16) - len(prefix))
    return re.compile(alike + rest + re.escape(conntrack.before_destination(version)) + alike, re.DOTALL)


def _ends(protocol: int, way: Way) -> Ends:
    one = (ip_address(way.source), way.source_port)
    return Ends(protocol, one, (ip_address(way.destination), way.destination_port))


def _relayed() -> Iterator[Ends]:
    """The relay speaks to endpoints in its clients' names (IP_TRANSPARENT)."""
    with Sockets(HERE) as sockets:
        for protocol in _PORTS:
            for sock in sockets.connected(protocol):
                yield Ends(protocol, sock.source, sock.peer)
