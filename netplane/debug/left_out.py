"""Which endpoints of a Service may not answer, and why: of each, and of all where nobody may.

Pure. The rules themselves are the proxy's own (``proxy.selection``); here they are put into words.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from netplane.config import IPAddress
from netplane.kube.objects import Object, labels_of, name_of, namespace_of
from proxy.model import NodeFacts, Protocol
from proxy.selection import candidates, usable
from proxy.snapshot import SERVICE_NAME_LABEL


@dataclass(frozen=True, slots=True)
class Asked:
    """One port of a Service, as one node serves it to one client.

    ``policy``: the traffic policy that applies where it is Local ("internalTrafficPolicy"), else "".
    """

    port: Mapping[str, Any]
    version: int
    node: NodeFacts
    policy: str

    @property
    def name(self) -> str:
        """The port's name in slices."""
        return self.port.get("name") or ""

    @property
    def protocol(self) -> Protocol:
        """Its transport."""
        return Protocol(self.port.get("protocol") or "TCP")


def belongs(piece: Object, service: Object) -> bool:
    """Whether an EndpointSlice is of a Service."""
    named = labels_of(piece).get(SERVICE_NAME_LABEL) == name_of(service)
    return named and namespace_of(piece) == namespace_of(service)


def slices_of(service: Object, slices: Sequence[Object], version: int) -> list[Object]:
    """The slices that say they are this Service's, in one IP version."""
    kind = f"IPv{version}"
    return [piece for piece in slices if piece.get("addressType") == kind and belongs(piece, service)]


def each(own: Sequence[Object], asked: Asked, chosen: Collection[IPAddress]) -> list[str]:
    """The endpoints that were not chosen, each with what keeps it out."""
    found: list[str] = []
    for piece in own:
        for entry in piece.get("endpoints") or []:
            left_out = (text for text in entry.get("addresses") or [] if ip_address(text) not in chosen)
            found.extend(f"{text} {_reason(piece, entry, asked)} (excluded)" for text in left_out)
    return found


def nobody(own: Sequence[Object], asked: Asked) -> str:
    """Why no endpoint at all may answer."""
    entries = [entry for piece in own for entry in piece.get("endpoints") or []]
    if not entries:
        return "the Service has no endpoints: its selector matches no pod with an address"
    among, _ = candidates(own, asked.name, asked.protocol, asked.version, asked.node)
    if not among:
        wanted = asked.port.get("targetPort") or asked.port.get("port")
        return f"{_no_port(asked)}: no pod of it has a port that is named {wanted}"
    ready = {str(candidate.address) for candidate in usable(among)}
    if not ready or not asked.policy:
        return "no endpoint of the Service is ready"
    nodes = {str(entry.get("nodeName")) for entry in entries if ready & {*(entry.get("addresses") or [])}}
    many = f"{len(ready)} endpoints are" if len(ready) > 1 else "1 endpoint is"
    return f"{many} ready, but none on {asked.node.name}, and {asked.policy} is Local: ask {_or(nodes)}"


def _reason(piece: Object, entry: Mapping[str, Any], asked: Asked) -> str:
    among, _ = candidates([piece], asked.name, asked.protocol, asked.version, asked.node)
    if not among:
        return _no_port(asked)
    conditions = entry.get("conditions") or {}
    if conditions.get("terminating"):
        return "terminating"
    if conditions.get("ready") is False:
        return "not ready"
    if asked.policy and entry.get("nodeName") != asked.node.name:
        return f"on {entry.get('nodeName')}, and {asked.policy} is Local"
    hints = entry.get("hints") or {}
    names = [str(name.get("name")) for field in ("forNodes", "forZones") for name in hints.get(field) or []]
    return f"meant for {', '.join(names)}" if names else "not chosen"


def _no_port(asked: Asked) -> str:
    return f"its slice has no port for Service port {asked.name or asked.port.get('port')}/{asked.protocol}"


def _or(names: Collection[str]) -> str:
    return " or ".join(sorted(names))
