"""Why a Service does not answer, and why a node is no good, as far as the API's objects tell. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from netplane.config import IPNetwork
from netplane.debug.facts import Route
from netplane.debug.hops import State
from netplane.debug.left_out import belongs
from netplane.kube.objects import Object, condition, is_true, key_of, labels_of, name_of, namespace_of
from proxy.snapshot import PROXY_NAME_LABEL

TRY = "kubectl get pods -n {namespace} --show-labels"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, what was seen, and what to do about it."""

    subject: str
    state: State
    text: str
    hint: str = ""


def of_services(
    services: Sequence[Object], slices: Sequence[Object], pods: Sequence[Object] | None
) -> Iterator[Finding]:
    """One for each Service port that leads nowhere, and one for all others.

    ``pods``: None where they may not be read.
    """
    good = 0
    for service in ours(services):
        spec = service.get("spec") or {}
        own = [piece for piece in slices if belongs(piece, service)]
        lost = [port for port in spec.get("ports") or [] if not _served(port, own)]
        good += not lost
        for port in lost:
            cause, hint = _cause(service, port, pods)
            name = f"service {key_of(service)}:{port.get('name') or port.get('port')}"
            yield Finding(name, State.BROKEN, f"no endpoint is ready: {cause}", hint)
    yield Finding("services", State.OK, f"{good} have ready endpoints")


def of_node(node: Object) -> Iterator[Finding]:
    """What its conditions say, and whether it can have pods."""
    subject = f"node {name_of(node)}"
    if not is_true(node, "Ready"):
        ready = condition(node, "Ready") or {}
        said = f"{ready.get('reason') or 'it'}: {ready.get('message') or 'has never said so'}"
        yield Finding(subject, State.BROKEN, f"not Ready: {said}", "Look at its log: netplane-node")
        return
    if is_true(node, "NetworkUnavailable"):
        said = (condition(node, "NetworkUnavailable") or {}).get("message") or ""
        yield Finding(subject, State.BROKEN, f"it takes no further pods: {said}")
    elif not (node.get("spec") or {}).get("podCIDR"):
        yield Finding(
            subject, State.BROKEN, "it has no pod network (spec.podCIDR)", "Does the control plane run?"
        )
    else:
        yield Finding(subject, State.OK, "Ready")


def of_others(nodes: Sequence[Object], own: str) -> Iterator[Finding]:
    """One for each other node that is no good, and one for all of them."""
    others = [node for node in nodes if name_of(node) != own]
    found = [one for node in others for one in of_node(node)]
    yield from (one for one in found if one.state is not State.OK)
    good = sum(one.state is State.OK for one in found)
    yield Finding("other nodes", State.OK, f"{good} of {len(others)} are Ready")


def of_routes(nodes: Sequence[Object], own: str, routes: Mapping[IPNetwork, Route]) -> Iterator[Finding]:
    """One for each pod network of another node that this node's kernel does not lead there, and one for all others.

    ``routes``: what the kernel says of each pod network.
    """
    good = 0
    for node in nodes:
        if name_of(node) == own:
            continue
        for network in pod_networks(node):
            route, gateways = routes[network], _internal(node)
            if route.network == str(network) and route.gateway in gateways:
                good += 1
                continue
            if route.error or route.network != str(network):
                otherwise = route.error or f"they leave by {route.network} {route.device}"
                text = f"there is no route to its pods, {network}: {otherwise}"
            else:
                text = (
                    f"the route to its pods, {network}, leads to {route.gateway or route.device}, not to it"
                )
            hint = "netplane-node makes it: its log says what kept it"
            yield Finding(f"route to {name_of(node)}", State.BROKEN, text, hint)
    yield Finding("routes", State.OK, f"{good} lead to other nodes' pods")


def pod_networks(node: Object) -> Iterator[IPNetwork]:
    """Those of its pod CIDRs that are any; what is wrong with the others the node agents' logs say."""
    for text in (node.get("spec") or {}).get("podCIDRs") or []:
        with suppress(ValueError):
            yield ip_network(text)


def _internal(node: Object) -> set[str]:
    entries = (node.get("status") or {}).get("addresses") or []
    return {str(entry.get("address")) for entry in entries if entry.get("type") == "InternalIP"}


def shortened(names: Sequence[str], most: int = 5) -> str:
    """A list that stays on its line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def ours(services: Sequence[Object]) -> Iterator[Object]:
    """Those that our proxy leads to endpoints: not a name only, nor another program's to serve."""
    for service in services:
        name_only = (service.get("spec") or {}).get("type") == "ExternalName"
        if not name_only and PROXY_NAME_LABEL not in labels_of(service):
            yield service


def _served(port: Mapping[str, Any], slices: Sequence[Object]) -> bool:
    wanted = (port.get("name") or "", port.get("protocol") or "TCP")
    return any(
        (entry.get("conditions") or {}).get("ready") is not False
        for piece in slices
        if any((p.get("name") or "", p.get("protocol") or "TCP") == wanted for p in piece.get("ports") or [])
        for entry in piece.get("endpoints") or []
    )


def _cause(service: Object, port: Mapping[str, Any], pods: Sequence[Object] | None) -> tuple[str, str]:
    """Why nothing serves a port of a Service, and what to do."""
    selector = (service.get("spec") or {}).get("selector") or {}
    if not selector:
        return "it has no selector, and nobody has written endpoints for it", ""
    if pods is None:
        return "its pods may not be read with this kubeconfig", "Give the administrator's: --kubeconfig FILE"
    namespace = namespace_of(service)
    chosen = [
        pod for pod in pods if namespace_of(pod) == namespace and selector.items() <= labels_of(pod).items()
    ]
    if not chosen:
        wanted = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        return f"no pod of its namespace has the labels {wanted}", TRY.format(namespace=namespace)
    waiting = [pod for pod in chosen if not is_true(pod, "Ready")]
    if len(waiting) == len(chosen):
        first = waiting[0]
        others = f", and {len(waiting) - 1} more" if len(waiting) > 1 else ""
        return (
            f"pod {name_of(first)} {_not_ready(first)}{others}",
            f"kubectl describe pod -n {namespace} {name_of(first)}",
        )
    target = port.get("targetPort")
    if isinstance(target, str) and not target.isdecimal() and target not in _port_names(chosen):
        return (
            f"targetPort {target!r} is the name of no port of its pods",
            "Name the container's port, or give a number",
        )
    return "its pods are ready, and no EndpointSlice says so", "Does the control plane run?"


def _not_ready(pod: Object) -> str:
    """In the words of whoever knows: the scheduler, the node, the probe."""
    scheduled = condition(pod, "PodScheduled") or {}
    if scheduled.get("status") == "False":
        return f"is on no node: {scheduled.get('message') or scheduled.get('reason')}"
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        state = status.get("state") or {}
        for kind in ("waiting", "terminated"):
            if said := state.get(kind):
                return f"does not run: {said.get('reason')} {said.get('message') or ''}".rstrip()
    if (pod.get("status") or {}).get("phase") == "Running":
        return "runs and is not ready: its readiness probe has not succeeded"
    return f"is {(pod.get('status') or {}).get('phase') or 'Pending'}"


def _port_names(pods: Sequence[Object]) -> set[str]:
    containers = (c for pod in pods for c in (pod.get("spec") or {}).get("containers") or [])
    return {str(port.get("name")) for container in containers for port in container.get("ports") or []}
