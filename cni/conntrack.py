"""UDP flows that must be forgotten: a client that keeps its socket keeps its flow, translated as at its first packet.

So a mapped UDP port that appears, moves or goes away would not be noticed by clients that are already there. TCP
needs nothing: a connection belongs to one pod. pyroute2 throughout; it costs 10 ms, and only where UDP is mapped.
"""

import errno
import socket
from collections.abc import Collection

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

from netplane.errors import KernelError


def forget_udp(ports: Collection[int]) -> None:
    """Delete every flow that a client began towards one of ``ports``. Raises KernelError."""
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            _forget(family, ports)
    except NetlinkError as error:
        raise KernelError(f"cannot forget the UDP flows to {sorted(ports)}: {error}") from error


def _forget(family: int, ports: Collection[int]) -> None:
    table = NFCTSocket(nfgen_family=family)
    try:
        found = [flow for entry in table.dump() if (flow := _udp_flow(family, entry)) is not None]
        for flow in found:
            if flow.dport in ports:
                _delete(table, flow)
    finally:
        table.close()


def _udp_flow(family: int, entry: object) -> NFCTAttrTuple | None:
    original = entry.get_attr("CTA_TUPLE_ORIG")  # type: ignore[attr-defined]  # pyroute2 is untyped
    if entry["nfgen_family"] != family or original is None:  # type: ignore[index]
        return None
    flow = NFCTAttrTuple.from_netlink(family, original)
    return flow if flow.proto == socket.IPPROTO_UDP else None


def _delete(table: NFCTSocket, flow: NFCTAttrTuple) -> None:
    try:
        table.entry("del", tuple_orig=flow)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it ended in between
            raise
