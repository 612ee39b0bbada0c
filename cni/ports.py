"""Port mappings: a port of the node that leads to a port of a pod, as runtimes ask for it (capability portMappings).

Pure. Two mappings conflict where one packet could match both: same protocol and port, and an address that is the
same or any.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from netplane.config import IPAddress

PROTOCOLS: Mapping[str, int] = {"tcp": 6, "udp": 17}


@dataclass(frozen=True, slots=True)
class PortMapping:
    """``host_ip`` None: every address of the node. ``versions``: the families it is for."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: IPAddress | None = None
    versions: tuple[int, ...] = (4, 6)

    def __str__(self) -> str:
        return f"{self.host_ip or '*'}:{self.host_port}/{self.protocol}"

    def dead(self, versions: Collection[int]) -> str:
        """Why no packet can come by this to a pod with addresses of ``versions``; "" where it can."""
        if not set(self.versions) & set(versions):
            return "the pod gets no address of hostIP's family"
        if self.host_ip is not None and self.host_ip.version == 6 and self.host_ip.is_loopback:
            return "the kernel translates no packets of ::1"
        return ""

    def conflicts(self, other: "PortMapping") -> bool:
        """Whether one packet could match both."""
        if (self.protocol, self.host_port) != (other.protocol, other.host_port):
            return False
        if not set(self.versions) & set(other.versions):
            return False
        return self.host_ip is None or other.host_ip is None or self.host_ip == other.host_ip

    def as_plain(self) -> dict[str, Any]:
        """As a runtime would ask for it."""
        unbound = {4: "0.0.0.0", 6: "::"}[self.versions[0]] if len(self.versions) == 1 else ""
        address = str(self.host_ip) if self.host_ip is not None else unbound
        return {
            "protocol": self.protocol,
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            **({"hostIP": address} if address else {}),
        }


def parse(entry: Mapping[str, Any]) -> PortMapping | None:
    """One entry of `portMappings`; None where it asks for no port of the node. Raises ValueError naming the field."""
    protocol = entry.get("protocol") or "tcp"
    if not isinstance(protocol, str) or protocol.lower() not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if not entry.get("hostPort"):
        return None
    host, container = (_port(entry, name) for name in ("hostPort", "containerPort"))
    text = entry.get("hostIP") or ""
    if not isinstance(text, str):
        raise ValueError(f"hostIP {text!r} is not an address")
    if not text:
        return PortMapping(protocol.lower(), host, container)
    try:
        address: IPAddress = ip_address(text)
    except ValueError:
        raise ValueError(f"hostIP {text!r} is not an address") from None
    everywhere = address.is_unspecified
    return PortMapping(protocol.lower(), host, container, None if everywhere else address, (address.version,))


def conflict(
    wanted: Iterable[PortMapping], taken: Iterable[PortMapping]
) -> tuple[PortMapping, PortMapping] | None:
    """The first pair that cannot both be."""
    held = list(taken)
    for mapping in wanted:
        for other in held:
            if mapping.conflicts(other):
                return mapping, other
        held.append(mapping)
    return None


def _port(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise ValueError(f"{name} {value!r} is not a port (1 to 65535)")
    return value
