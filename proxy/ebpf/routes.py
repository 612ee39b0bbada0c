"""What of a Target the sockets of this node are told, and what is left to nftables.

Only ``inside`` matters here: whoever opens a socket on this node is a client of the cluster. What cannot be decided
at connect() is left out, and meets the nftables table: a client's address is not known yet (source ranges), silence
cannot be made there, and UDP without endpoints is refused by a packet, as it always is.
"""

from dataclasses import dataclass

from proxy.ebpf.layout import MOST_ENDPOINTS, NAME_BYTES, NUMBERS
from proxy.model import Endpoint, Frontend, Protocol, ServicePort, Target, WhenEmpty


@dataclass(frozen=True, slots=True)
class Route:
    """What a frontend leads to. ``endpoints``: each address and port once, in order. ``affinity``: seconds or 0."""

    service: ServicePort
    endpoints: tuple[Endpoint, ...]
    affinity: int = 0


def route_of(frontend: Frontend, target: Target) -> Route | None:
    """The route that sockets get, or None where nftables is to answer."""
    if frontend.protocol not in NUMBERS or target.allowed:
        return None
    pool = target.inside
    if len(service_name(target.service, frontend.protocol).encode()) > NAME_BYTES:
        return None
    if not pool.endpoints:
        refused = pool.when_empty is WhenEmpty.REJECT and frontend.protocol is Protocol.TCP
        return Route(target.service, ()) if refused else None
    once = {(endpoint.address, endpoint.port): endpoint for endpoint in reversed(pool.endpoints)}
    ordered = tuple(sorted(once.values(), key=lambda endpoint: endpoint.order))[:MOST_ENDPOINTS]
    return Route(target.service, ordered, target.affinity or 0)


def service_name(service: ServicePort, protocol: Protocol) -> str:
    """What the kernel keeps of a Service: ``ns/name:port/tcp``."""
    return f"{service}/{protocol.lower()}"


def service_of(name: str) -> ServicePort:
    """The Service port of such a name."""
    namespace, _, rest = name.partition("/")
    service, _, port = rest.rpartition("/")[0].rpartition(":")
    return ServicePort(namespace, service, port)
