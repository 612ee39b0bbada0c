"""A flow in words, for tools: who, by which frontend, to which endpoint, and whose address that one sees."""

import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from proxy.model import joined
from proxy.userspace.flow import Flow


def describe_flows(flows: Iterable[Flow]) -> list[dict[str, Any]]:
    """One entry a flow. Addresses are asked of the kernel now: a flow itself remembers none."""
    return [entry for flow in flows if (entry := _describe(flow)) is not None]


def _describe(flow: Flow) -> dict[str, Any] | None:
    if flow.client_side is None or flow.endpoint_side is None:
        return None
    source = _name(flow.endpoint_side.fd, peer=False)
    return {
        "client": _name(flow.client_side.fd, peer=True),
        "arrived": _name(flow.client_side.fd, peer=False),
        "frontend": str(flow.listener.frontend),
        "service": str(flow.listener.target.service),
        "endpoint": str(flow.endpoint),
        "source": source,
        "keepsClient": source.rpartition(":")[0].strip("[]") == str(flow.client.address),
        "connected": flow.connected,
        "tried": flow.tried,
    }


def _name(fd: int, *, peer: bool) -> str:
    sock = socket.socket(fileno=fd)  # looks the family up, without which the address cannot be read
    try:
        address, port = (sock.getpeername() if peer else sock.getsockname())[:2]
    except OSError:
        return "gone"
    finally:
        sock.detach()
    return joined(ip_address(address), port)
