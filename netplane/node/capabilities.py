"""What a pod asks of its network beyond an address, in CNI's words: ports of the node and limits of bandwidth. Pure.

Sources: the conventions of the CNI project ("Dynamic plugin specific fields"); kubelet's annotations for bandwidth.
"""

from collections.abc import Mapping
from typing import Any

from netplane.errors import ConfigError
from netplane.kube.objects import Object
from netplane.kube.quantity import whole
from netplane.node.cni_config import Network

_DIRECTIONS = ("ingress", "egress")
_RATES = range(1000, 10**15 + 1)  # bits a second; kubelet's limits
_BURST_SHARE = 10  # a tenth of a second's worth at once,
_LEAST_BURST = 64 * 1024 * 8  # and in any case a segment as large as the kernel makes them
_HINTS = {"portMappings": "Use a NodePort Service", "bandwidth": "Remove the annotations"}
_WISHES = {"portMappings": "map hostPort", "bandwidth": "limit the bandwidth"}


def asked(pod: Object) -> dict[str, object]:
    """The capability arguments of a pod. Raises ConfigError naming the annotation that is no bandwidth."""
    found: dict[str, object] = {"portMappings": port_mappings(pod), "bandwidth": bandwidth(pod)}
    return {name: wish for name, wish in found.items() if wish}


def require(network: Network, wishes: Mapping[str, object]) -> None:
    """What no plugin of the network does would be dropped in silence. Raises ConfigError."""
    declared = [plugin.get("capabilities") or {} for plugin in network.plugins]
    for name in wishes:
        if not any(capabilities.get(name) for capabilities in declared):
            cause = f"no plugin of network {network.name} has the capability {name}"
            raise ConfigError(f"cannot {_WISHES[name]}: {cause}", _HINTS[name])


def port_mappings(pod: Object) -> list[dict[str, Any]]:
    """Every container port that asks for a port of the node."""
    return [
        {
            "hostPort": int(port["hostPort"]),
            "containerPort": int(port["containerPort"]),
            "protocol": str(port.get("protocol") or "TCP").lower(),
            **({"hostIP": port["hostIP"]} if port.get("hostIP") else {}),
        }
        for container in (pod.get("spec") or {}).get("containers") or []
        for port in container.get("ports") or []
        if port.get("hostPort")
    ]


def bandwidth(pod: Object) -> dict[str, int]:
    """Of the annotations `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`, bits a second."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    found: dict[str, int] = {}
    for direction in _DIRECTIONS:
        name = f"kubernetes.io/{direction}-bandwidth"
        if name in annotations:
            rate = _rate(name, annotations[name])
            burst = max(rate // _BURST_SHARE, _LEAST_BURST)
            found |= {f"{direction}Rate": rate, f"{direction}Burst": burst}
    return found


def _rate(name: str, text: str) -> int:
    try:
        rate = whole(text)
    except ValueError as error:
        raise ConfigError(f"cannot limit the bandwidth: annotation {name}: {error}") from None
    if rate not in _RATES:
        raise ConfigError(
            f"cannot limit the bandwidth: annotation {name} must be from 1k to 1P, not {text!r}"
        )
    return rate
