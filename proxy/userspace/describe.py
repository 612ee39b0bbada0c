"""A flow in words, for tools: who, by which frontend, to which endpoint, and whose address that one sees."""

import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from proxy.model import joined
from proxy.userspace.datagrams import Exchange
from proxy.userspace.streams.flow import Flow


def describe_flows(flows: Iterable[Flow | Exchange]) -> list[dict[str, Any]]:
    """One entry a flow. Addresses are asked of the kernel now: a flow itself remembers none."""
    return [entry for flow in flows if (entry := _describe(flow)) is not None]


def _describe(flow: Flow | Exchange) -> dict[str, Any] | None:
    if isinstance(flow, Exchange):
        return _describe_exchange(flow) if flow.fd >= 0 else None
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


def _describe_exchange(exchange: Exchange) -> dict[str, Any]:
    listener, (host, port, arrived) = exchange.box.listener, exchange.key
    source = _name(exchange.fd, peer=False)
    address = ip_address(arrived) if arrived else listener.frontend.address
    return {
        "client": joined(ip_address(host.partition("%")[0]), port),
        "arrived": joined(address, listener.frontend.port),
        "frontend": str(listener.frontend),
        "service": str(listener.target.service),
        "endpoint": str(exchange.endpoint),
        "source": source,
        "keepsClient": source.rpartition(":")[0].strip("[]") == str(exchange.client.address),
        "connected": exchange.answered,
        "tried": exchange.tried,
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
