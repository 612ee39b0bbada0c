"""Services that have ready endpoints and give no answer all the same: nobody listens, or a policy keeps clients off.

Readiness without a probe only says that the program was started. So the sockets of this node's own endpoints are looked
at; those of other nodes are looked at there. Pure: the endpoints in question first, then what their sockets mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from netplane.config import IPAddress
from netplane.debug.ailments import Finding, ours, shortened
from netplane.debug.facts import Facts, Listener, Request
from netplane.debug.hops import State
from netplane.debug.left_out import belongs
from netplane.kube.objects import Object, is_true, key_of, name_of

LISTEN_WIDE = "Have the program listen on 0.0.0.0"


@dataclass(frozen=True, slots=True)
class Local:
    """A ready TCP endpoint on this node. ``service``: namespace/name:port; ``shared``: the network is the node's."""

    service: str
    pod: str
    address: IPAddress
    port: int
    shared: bool


def locals_of(services: Sequence[Object], slices: Sequence[Object], node: Object) -> list[Local]:
    """The endpoints whose sockets a look at this node can find."""
    entries = (node.get("status") or {}).get("addresses") or []
    own = {str(entry.get("address")) for entry in entries}
    found = [
        Local(
            f"{key_of(service)}:{asked.get('name') or asked.get('port')}",
            (entry.get("targetRef") or {}).get("name") or "",
            ip_address(entry["addresses"][0]),
            port["port"],
            entry["addresses"][0] in own,
        )
        for service in ours(services)
        for piece in slices
        if belongs(piece, service) and piece.get("addressType") != "FQDN"
        for asked in (service.get("spec") or {}).get("ports") or []
        for port in piece.get("ports") or []
        if port.get("port") and (port.get("name") or "") == (asked.get("name") or "")
        if (port.get("protocol") or "TCP") == (asked.get("protocol") or "TCP") == "TCP"
        for entry in _ready(piece)
        if entry.get("nodeName") == name_of(node)
    ]
    return list(dict.fromkeys(found))


def question(endpoints: Sequence[Local]) -> Request:
    """What to look at for them on this node."""
    pods = dict.fromkeys(str(one.address) for one in endpoints if not one.shared)
    return Request(pods=tuple(pods), ports=tuple({one.port: None for one in endpoints if one.shared}))


def of_listeners(endpoints: Sequence[Local], facts: Facts) -> Iterator[Finding]:
    """One for each Service port with endpoints here at which nobody listens, and one for all of them."""
    lost: dict[str, list[tuple[str, str]]] = {}
    blind = 0
    for one in endpoints:
        listeners = _listeners(one, facts)
        if listeners is None:
            blind += 1
            yield Finding(
                f"service {one.service}",
                State.UNSEEN,
                f"whether pod {one.pod} listens at {one.address}:{one.port}: no process of it is in sight",
            )
        elif cause := _cause(one, listeners):
            lost.setdefault(one.service, []).append(cause)
    for service, causes in lost.items():
        (text, hint), others = causes[0], len(causes) - 1
        more = f", and {others} more here" if others else ""
        yield Finding(f"service {service}", State.BROKEN, f"{text}{more}", hint)
    listening = len(endpoints) - blind - sum(map(len, lost.values()))
    text = f"{listening} of {len(endpoints)} TCP endpoints on this node listen; each node looks at its own"
    yield Finding("listeners", State.OK, text)


def _listeners(endpoint: Local, facts: Facts) -> Sequence[Listener] | None:
    pod = facts.pods.get(str(endpoint.address))
    if endpoint.shared:
        found = facts.listeners
    elif pod is not None and pod.namespace:
        found = pod.listeners
    else:
        return None
    return [one for one in found if one.protocol == "TCP"]


def _cause(endpoint: Local, listeners: Sequence[Listener]) -> tuple[str, str] | None:
    """Why connections to the endpoint are refused, and what to do; None where they are not."""
    wildcards = ("0.0.0.0", "::") if endpoint.address.version == 4 else ("::",)
    at = {_plain(one.address) for one in listeners if one.port == endpoint.port}
    if at & {str(endpoint.address), *wildcards}:
        return None
    pod = f"pod {endpoint.pod}: " if endpoint.pod else ""
    if at:
        where = ", ".join(f"{address}:{endpoint.port}" for address in sorted(at))
        return f"{pod}it listens on {where} only, and not on {endpoint.address}", LISTEN_WIDE
    others = [] if endpoint.shared else sorted({one.port for one in listeners})
    hint = f"Is targetPort right? It listens at {', '.join(map(str, others))}" if others else ""
    return f"{pod}nothing listens at {endpoint.address}:{endpoint.port}", hint


def _plain(address: str) -> str:
    """An IPv6 socket that is bound to an IPv4 address is that address's."""
    parsed = ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def of_policies(
    services: Sequence[Object], slices: Sequence[Object], nodes: Sequence[Object]
) -> Iterator[Finding]:
    """Where policy Local means silence. That is what was asked for, so nothing is broken."""
    ready = {name_of(node) for node in nodes if is_true(node, "Ready")}
    for service in ours(services):
        own = [piece for piece in slices if belongs(piece, service)]
        having = {entry.get("nodeName") for piece in own for entry in _ready(piece)}
        without = sorted(ready - having)
        if not having or not without:
            continue
        for policy, clients in _local_policies(service.get("spec") or {}):
            text = f"{policy} Local: {clients} {shortened(without)}, where none of its pods is"
            yield Finding(f"service {key_of(service)}", State.OK, text)


def _local_policies(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    reachable = spec.get("type") in ("NodePort", "LoadBalancer") or spec.get("externalIPs")
    if spec.get("externalTrafficPolicy") == "Local" and reachable:
        yield "externalTrafficPolicy", "clients from outside the cluster get no answer at"
    if spec.get("internalTrafficPolicy") == "Local":
        yield "internalTrafficPolicy", "clients get no answer on"


def _ready(piece: Object) -> Iterator[Mapping[str, Any]]:
    for entry in piece.get("endpoints") or []:
        if (entry.get("conditions") or {}).get("ready") is not False:
            yield entry
