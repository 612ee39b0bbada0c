"""The table of flows that every data path must satisfy in a real kernel.

Why one table for all: reachability, refusal, silence, eligible endpoints and the address an endpoint sees are
what a Service *is*; a data path is only a way to have it. Each row says in which modes it holds, and why.

The place: node n1 has the pods client, web1 and web2; node n2 has the pod remote; outside is a host beside
the nodes. The Services are API objects, so the table covers the walk from them to the packet.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

USERSPACE, NFTABLES, EBPF = "userspace", "nftables", "ebpf"
ALL = frozenset({USERSPACE, NFTABLES, EBPF})

NODES = {"n1": "192.168.77.11", "n2": "192.168.77.12"}
POD_CIDRS = {"n1": "10.244.1.0/24", "n2": "10.244.2.0/24"}
OUTSIDE_ADDRESS = "192.168.77.1"
PODS = {
    "client": ("n1", "10.244.1.2"),
    "web1": ("n1", "10.244.1.3"),
    "web2": ("n1", "10.244.1.4"),
    "remote": ("n2", "10.244.2.2"),
}
ADDRESSES = {**NODES, **{pod: address for pod, (_, address) in PODS.items()}, "outside": OUTSIDE_ADDRESS}
UDP = "UDP"
PORT = 8080  # what every pod serves; 8081 is closed everywhere
NODE_AGENT_PORT = 10250  # a wildcard listener of node n1, TCP and UDP


class Where(StrEnum):
    """Who opens the connection."""

    CLIENT = "client"
    WEB1 = "web1"
    HOST = "n1"
    REMOTE = "remote"
    OUTSIDE = "outside"


class Seen(StrEnum):
    """Whose address the endpoint sees."""

    ITS_OWN = "the client's own"
    NODE = "the node's"


@dataclass(frozen=True)
class Served:
    """Connections succeed, all of these pods and no others answer, and see this address.

    ``itself``: what a pod sees of its own connections to itself.
    """

    by: frozenset[str]
    seen: Seen
    itself: Seen = Seen.NODE


class Failed(StrEnum):
    """How a connection fails."""

    REFUSED = "refused"
    DROPPED = "dropped"


@dataclass(frozen=True)
class Flow:
    """One row. ``to``: ``service`` (its ClusterIP), ``node:port`` or ``address:port``, as TCP or UDP."""

    source: Where
    to: str
    expect: Served | Failed
    because: str
    modes: frozenset[str] = ALL
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.source} to {self.to}/{self.protocol.lower()}: {self.because}"


def served(*by: str, seen: Seen = Seen.ITS_OWN, itself: Seen = Seen.NODE) -> Served:
    """Shorthand."""
    return Served(frozenset(by), seen, itself)


def service(
    name: str, address: str, port: int = 80, node_port: int = 0, protocol: str = "TCP", **spec: Any
) -> dict[str, Any]:
    """A Service object as the API would give it."""
    ports: dict[str, Any] = {"port": port, "protocol": protocol}
    kind = "ClusterIP"
    if node_port:
        ports["nodePort"], kind = node_port, "NodePort"
    base = {"type": kind, "clusterIP": address, "clusterIPs": [address], "ports": [ports]}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {**base, **spec}}


def endpoint_slice(
    name: str,
    *pods: str,
    port: int = PORT,
    conditions: dict[str, bool] | None = None,
    protocol: str = "TCP",
) -> dict[str, Any]:
    """The EndpointSlice of a Service whose endpoints are these pods, nodes, or plain addresses of nobody."""
    endpoints = [
        {
            "addresses": [ADDRESSES.get(pod, pod)],
            "nodeName": PODS[pod][0] if pod in PODS else pod,
            "conditions": conditions or {"ready": True},
        }
        for pod in pods
    ]
    return {
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": port, "protocol": protocol}],
    }


def balanced(name: str, address: str, ingress: str, *ranges: str) -> dict[str, Any]:
    """A LoadBalancer Service with an address that only these client networks may use."""
    made = service(name, address, type="LoadBalancer", loadBalancerSourceRanges=list(ranges))
    return {**made, "status": {"loadBalancer": {"ingress": [{"ip": ingress}]}}}


TERMINATING = {"ready": False, "serving": True, "terminating": True}
SERVICES = [
    service("web", "10.96.0.10", node_port=30080),
    service("all", "10.96.0.11", node_port=30081),
    service("none", "10.96.0.12", node_port=30082),
    service("self", "10.96.0.13"),
    service("local", "10.96.0.14", node_port=30084, externalTrafficPolicy="Local"),
    service("away", "10.96.0.15", node_port=30085, externalTrafficPolicy="Local"),
    service("inner", "10.96.0.16", internalTrafficPolicy="Local"),
    service("inner-away", "10.96.0.17", internalTrafficPolicy="Local"),
    service("ending", "10.96.0.18"),
    service("external", "10.96.0.19", externalIPs=["203.0.113.7"]),
    service("dead", "10.96.0.20"),
    service("half-dead", "10.96.0.21"),
    service("machines", "10.96.0.22"),
    service("sticky", "10.96.0.23", node_port=30086, sessionAffinity="ClientIP", externalIPs=["203.0.113.8"]),
    service("u-web", "10.96.1.10", node_port=30080, protocol=UDP),
    service("u-all", "10.96.1.11", node_port=30081, protocol=UDP),
    service("u-none", "10.96.1.12", node_port=30082, protocol=UDP),
    service("u-self", "10.96.1.13", protocol=UDP),
    service("u-local", "10.96.1.14", node_port=30084, protocol=UDP, externalTrafficPolicy="Local"),
    service("u-away", "10.96.1.15", node_port=30085, protocol=UDP, externalTrafficPolicy="Local"),
    service("u-half-dead", "10.96.1.21", protocol=UDP),
    balanced("few", "10.96.2.1", "198.51.100.1", "192.168.77.0/28"),
    balanced("nobody", "10.96.2.2", "198.51.100.2", "172.16.0.0/12"),
]
SLICES = [
    endpoint_slice("web", "web1", "web2"),
    endpoint_slice("all", "web1", "web2", "remote"),
    endpoint_slice("none"),
    endpoint_slice("self", "web1"),
    endpoint_slice("local", "web1", "remote"),
    endpoint_slice("away", "remote"),
    endpoint_slice("inner", "web1", "remote"),
    endpoint_slice("inner-away", "remote"),
    endpoint_slice("ending", "web2", conditions=TERMINATING),
    endpoint_slice("external", "web1"),
    endpoint_slice("dead", "web1", port=8081),
    endpoint_slice("half-dead", "web1", "10.244.1.99"),
    endpoint_slice("machines", "n1", "n2"),
    endpoint_slice("sticky", "web1", "web2", "remote"),
    endpoint_slice("u-web", "web1", "web2", protocol=UDP),
    endpoint_slice("u-all", "web1", "web2", "remote", protocol=UDP),
    endpoint_slice("u-none", protocol=UDP),
    endpoint_slice("u-self", "web1", protocol=UDP),
    endpoint_slice("u-local", "web1", "remote", protocol=UDP),
    endpoint_slice("u-away", "remote", protocol=UDP),
    endpoint_slice("u-half-dead", "client", "web1", protocol=UDP),
    endpoint_slice("few", "web1"),
    endpoint_slice("nobody", "web1"),
]

CLIENT, WEB1, HOST, REMOTE, OUTSIDE = Where
REFUSED, DROPPED = Failed
NODE = Seen.NODE
N1 = NODES["n1"]
ONLY_USERSPACE = frozenset({USERSPACE})
# A socket that was told its endpoint connects as if it had known: nothing is translated on the way.
TOLD, ON_THE_WAY = frozenset({EBPF}), frozenset({USERSPACE, NFTABLES})

FLOWS = [
    Flow(CLIENT, "web", served("web1", "web2"), "two endpoints on this node take turns"),
    Flow(CLIENT, "all", served("web1", "web2", "remote"), "endpoints on other nodes see the client too"),
    Flow(HOST, "all", served("web1", "web2", "remote", seen=NODE), "the node's own clients have its address"),
    Flow(
        WEB1, "self", served("web1"), "a pod that reaches itself is answered by way of the node", ON_THE_WAY
    ),
    Flow(WEB1, "self", served("web1", itself=Seen.ITS_OWN), "it speaks to itself within the pod", TOLD),
    Flow(
        WEB1,
        "web",
        served("web1", "web2"),
        "hairpin is the node's address, the other endpoint sees the pod's",
        ON_THE_WAY,
    ),
    Flow(WEB1, "web", served("web1", "web2", itself=Seen.ITS_OWN), "both see the pod's own address", TOLD),
    Flow(CLIENT, "none", REFUSED, "a Service without endpoints is refused at once"),
    Flow(HOST, "none", REFUSED, "so it is from the node"),
    Flow(OUTSIDE, f"{N1}:30082", REFUSED, "and at its NodePort"),
    Flow(OUTSIDE, f"{N1}:30080", served("web1", "web2", seen=NODE), "policy Cluster hides an outside client"),
    Flow(OUTSIDE, f"{N1}:30081", served("web1", "web2", "remote", seen=NODE), "replies must come back here"),
    Flow(CLIENT, f"{N1}:30080", served("web1", "web2"), "a pod may use its own node's NodePort"),
    Flow(HOST, f"{N1}:30080", served("web1", "web2", seen=NODE), "so may the node"),
    Flow(HOST, "127.0.0.1:30080", served("web1", "web2", seen=NODE), "also by its loopback address"),
    Flow(OUTSIDE, f"{N1}:30084", served("web1"), "policy Local: this node's endpoints, the client's address"),
    Flow(
        CLIENT, f"{N1}:30084", served("web1", "remote"), "policy Local short-circuits for the cluster's own"
    ),
    Flow(OUTSIDE, f"{N1}:30085", DROPPED, "policy Local with none here: silence, for load balancers"),
    Flow(HOST, f"{N1}:30085", served("remote", seen=NODE), "but not for the node itself"),
    Flow(CLIENT, "inner", served("web1"), "internalTrafficPolicy Local"),
    Flow(CLIENT, "inner-away", DROPPED, "internalTrafficPolicy Local with none here"),
    Flow(CLIENT, "ending", served("web2"), "only terminating endpoints: those that still serve"),
    Flow(CLIENT, "203.0.113.7:80", served("web1"), "an externalIP"),
    Flow(CLIENT, "dead", REFUSED, "the only endpoint refuses, and so do we"),
    Flow(
        CLIENT, "half-dead", served("web1"), "a dead endpoint costs a try, not a connection", ONLY_USERSPACE
    ),
    Flow(
        CLIENT,
        "machines",
        served("n1", "n2", seen=NODE),
        "machines (the API server) have no way back to pods",
        ON_THE_WAY,
    ),
    Flow(
        CLIENT,
        "machines",
        served("n1", "n2"),
        "as without a Service: the CNI plugin's masquerade is theirs",
        TOLD,
    ),
    Flow(CLIENT, "10.96.0.10:81", REFUSED, "a port that the Service does not have"),
    Flow(CLIENT, "10.96.99.99:80", REFUSED, "an address that no Service has"),
    Flow(CLIENT, f"10.96.0.10:{NODE_AGENT_PORT}", REFUSED, "a node's own port, through a ClusterIP"),
    Flow(HOST, f"10.96.0.10:{NODE_AGENT_PORT}", REFUSED, "not even from the node"),
    Flow(CLIENT, f"10.96.99.99:{NODE_AGENT_PORT}", REFUSED, "nor through an address that no Service has"),
    Flow(CLIENT, "10.96.0.10:30080", REFUSED, "a NodePort is no port of a ClusterIP"),
    Flow(CLIENT, f"203.0.113.7:{NODE_AGENT_PORT}", REFUSED, "nor through an externalIP"),
    Flow(OUTSIDE, "198.51.100.1:80", served("web1", seen=NODE), "a load balancer's address, in its ranges"),
    Flow(CLIENT, "198.51.100.1:80", DROPPED, "loadBalancerSourceRanges hold for pods as well, in silence"),
    Flow(OUTSIDE, "198.51.100.2:80", DROPPED, "and for clients outside"),
    Flow(CLIENT, "nobody", served("web1"), "but not at the ClusterIP"),
    Flow(CLIENT, "u-web", served("web1", "web2"), "each client socket is a flow of its own", protocol=UDP),
    Flow(CLIENT, "u-all", served("web1", "web2", "remote"), "also to other nodes", protocol=UDP),
    Flow(
        HOST, "u-all", served("web1", "web2", "remote", seen=NODE), "the node has its address", protocol=UDP
    ),
    Flow(WEB1, "u-self", served("web1"), "hairpin, as for TCP", ON_THE_WAY, protocol=UDP),
    Flow(WEB1, "u-self", served("web1", itself=Seen.ITS_OWN), "within the pod", TOLD, protocol=UDP),
    Flow(CLIENT, "u-none", REFUSED, "no endpoints: port unreachable", protocol=UDP),
    Flow(HOST, "u-none", REFUSED, "the node's own programs hear of it as all others do", protocol=UDP),
    Flow(HOST, "10.96.1.10:81", REFUSED, "also of a port that the Service does not have", protocol=UDP),
    Flow(OUTSIDE, f"{N1}:30082", REFUSED, "also at the NodePort", protocol=UDP),
    Flow(OUTSIDE, f"{N1}:30081", served("web1", "web2", "remote", seen=NODE), "NodePort", protocol=UDP),
    Flow(CLIENT, f"{N1}:30080", served("web1", "web2"), "a pod by NodePort", protocol=UDP),
    Flow(HOST, f"{N1}:30080", served("web1", "web2", seen=NODE), "the node by NodePort", protocol=UDP),
    Flow(HOST, "127.0.0.1:30080", served("web1", "web2", seen=NODE), "and by loopback", protocol=UDP),
    Flow(OUTSIDE, f"{N1}:30084", served("web1"), "policy Local keeps the client's address", protocol=UDP),
    Flow(OUTSIDE, f"{N1}:30085", DROPPED, "policy Local with none here", protocol=UDP),
    Flow(
        CLIENT,
        "u-half-dead",
        served("web1"),
        "an endpoint that refuses: another is asked the same",
        ONLY_USERSPACE,
        protocol=UDP,
    ),
    Flow(CLIENT, "10.96.1.10:81", REFUSED, "a port that the Service does not have", protocol=UDP),
    Flow(CLIENT, f"10.96.1.10:{NODE_AGENT_PORT}", REFUSED, "a node's own UDP port", protocol=UDP),
]
