"""The connections that the kernel translates for Services now, from its own table of connections. Blocking."""

from ipaddress import ip_address
from typing import Any

from netplane.linux import conntrack
from netplane.linux.conntrack import Flow
from proxy.model import Frontend, Protocol, joined
from proxy.nftables import observe
from proxy.nftables.names import PROTOCOLS, VERSIONS

_NAMES = {number: Protocol(name) for name, number in PROTOCOLS.items()}


def describe() -> list[dict[str, Any]]:
    """One entry a connection to a frontend, in the form in which the relay tells its own."""
    services = {frontend: str(target.service) for frontend, target in observe.targets().items()}
    found = []
    for version in VERSIONS:
        for flow in conntrack.flows(version, conntrack.TRANSLATED):
            frontend = _frontend(flow, services)
            if frontend is not None:
                found.append(_described(flow, frontend, services[frontend]))
    return found


def _frontend(flow: Flow, services: dict[Frontend, str]) -> Frontend | None:
    protocol = _NAMES.get(flow.protocol)
    if protocol is None:
        return None
    every = ip_address("0.0.0.0" if flow.version == 4 else "::")
    called = flow.called
    exact = Frontend(ip_address(called.destination), called.destination_port, protocol)
    anywhere = Frontend(every, called.destination_port, protocol)
    return exact if exact in services else anywhere if anywhere in services else None


def _described(flow: Flow, frontend: Frontend, service: str) -> dict[str, Any]:
    called, answers = flow.called, flow.answers
    return {
        "client": joined(ip_address(called.source), called.source_port),
        "arrived": joined(ip_address(called.destination), called.destination_port),
        "frontend": str(frontend),
        "service": service,
        "endpoint": joined(ip_address(answers.source), answers.source_port),
        "source": joined(ip_address(answers.destination), answers.destination_port),
        "keepsClient": called.source == answers.destination,
        "connected": bool(flow.status & conntrack.SEEN_REPLY),
    }
