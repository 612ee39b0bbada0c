"""The table of flows that every data path must satisfy in a real kernel.

Why one table for all: reachability, refusal, silence, eligible endpoints and the address an endpoint sees are
what a Service *is*; a data path is only a way to have it. Each row says in which modes it holds, and why.

The place: node n1 has the pods client, web1 and web2; node n2 has the pods remote and remote2; outside is a host
beside the nodes. n1 is the node whose data path is looked at: what comes from n2 is what n2 leaves to it. The Services
are API objects, so the table covers the walk from them to the packet. Every address has a partner in IPv6
(``in_version``), every Service and slice too, and every row is walked by both.
"""

from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
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
    "remote2": ("n2", "10.244.2.3"),
}
ADDRESSES = {**NODES, **{pod: address for pod, (_, address) in PODS.items()}, "outside": OUTSIDE_ADDRESS}
SECOND, SECOND_NETWORK = "192.168.78.11", "192.168.78.0/24"  # another address of node n1
STRANGERS = "172.16.5.0/24"  # more addresses of the host outside
EXTERNAL_NETWORKS = (
    "203.0.113.0/24",
    "198.51.100.0/24",
)  # externalIPs, and load balancers' addresses: led to n1
VERSIONS = (4, 6)
PARTNERS = {
    IPv4Network(four): IPv6Network(six)
    for four, six in {
        "10.244.1.0/24": "fd00:10:244:1::/64",
        "10.244.2.0/24": "fd00:10:244:2::/64",
        "10.244.0.0/16": "fd00:10:244::/56",
        "10.96.0.0/12": "fd00:10:96::/112",
        "172.16.0.0/12": "fd00:172::/64",
        "192.168.77.0/24": "fd00:77::/64",
        "192.168.78.0/24": "fd00:78::/64",
        "203.0.113.0/24": "2001:db8:113::/64",
        "198.51.100.0/24": "2001:db8:51::/64",
        "127.0.0.1/32": "::1/128",
    }.items()
}
UDP = "UDP"
PORT = 8080  # what every pod serves; 8081 is closed everywhere
NODE_AGENT_PORT = 10250  # a wildcard listener of node n1, TCP and UDP


class Where(StrEnum):
    """Who opens the connection."""

    CLIENT = "client"
    WEB1 = "web1"
    HOST = "n1"
    REMOTE = "remote"
    N2 = "n2"
    OUTSIDE = "outside"


class Seen(StrEnum):
    """Whose address the endpoint sees."""

    ITS_OWN = "the client's own"
    NODE = "the node's"


@dataclass(frozen=True)
class Served:
    """Connections succeed, all of these pods and no others answer, and see this address.

    ``itself``: what a pod sees of its own connections to itself; ``away``: what endpoints on node n2 see, where that
    is not what those on n1 do.
    """

    by: frozenset[str]
    seen: Seen
    itself: Seen = Seen.NODE
    away: Seen | None = None

    def seen_by(self, name: str, source: str) -> Seen:
        """What this one of them sees of that client."""
        if name == source:
            return self.itself
        return self.away if self.away and PODS[name][0] != "n1" else self.seen


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


def served(*by: str, seen: Seen = Seen.ITS_OWN, itself: Seen = Seen.NODE, away: Seen | None = None) -> Served:
    """Shorthand."""
    return Served(frozenset(by), seen, itself, away)


def in_version(text: str, version: int) -> str:
    """An address or a network of the table, or its partner: so far into a network of IPv6's as it is into IPv4's.

    Raises StopIteration for one that has no partner.
    """
    if version == 4:
        return text
    network = IPv4Network(text.strip())
    if "/" in text and network in PARTNERS:
        return str(PARTNERS[network])
    of = next(known for known in PARTNERS if network.subnet_of(known))
    distance = int(network.network_address) - int(of.network_address)
    address = PARTNERS[of].network_address + distance % 2**16
    return f"{address}/{network.prefixlen + 96}" if "/" in text else str(address)


def addresses_of(name: str) -> list[str]:
    """Both addresses of a node, a pod, or the host outside."""
    return [in_version(ADDRESSES[name], version) for version in VERSIONS]


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
    number: int = 1,
) -> dict[str, Any]:
    """An EndpointSlice of a Service whose endpoints are these pods, nodes, or plain addresses of nobody."""
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
            "name": f"{name}-{number}",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": port, "protocol": protocol}],
    }


def balanced(
    name: str, address: str, ingress: str, *ranges: str, protocol: str = "TCP", **spec: Any
) -> dict[str, Any]:
    """A LoadBalancer Service with an address that only these client networks may use; none named: everybody."""
    made = service(
        name,
        address,
        protocol=protocol,
        type="LoadBalancer",
        **({"loadBalancerSourceRanges": list(ranges)} if ranges else {}),
        **spec,
    )
    return {**made, "status": {"loadBalancer": {"ingress": [{"ip": ingress}]}}}


def dual_stack(made: dict[str, Any]) -> dict[str, Any]:
    """A Service of the table, with the partners of all its addresses."""
    both = deepcopy(made)
    for addresses in (
        both["spec"]["clusterIPs"],
        both["spec"].get("externalIPs", []),
        both["spec"].get("loadBalancerSourceRanges", []),
    ):
        addresses += [in_version(address, 6) for address in addresses]
    both["spec"] |= {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
    ingress = both.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    ingress += [{"ip": in_version(entry["ip"], 6)} for entry in ingress]
    return both


def slice_in_six(item: dict[str, Any]) -> dict[str, Any]:
    """The slice of the same endpoints at their other addresses."""
    six = deepcopy(item)
    six["addressType"] = "IPv6"
    six["metadata"]["name"] += "-six"
    for endpoint in six["endpoints"]:
        endpoint["addresses"] = [in_version(address, 6) for address in endpoint["addresses"]]
    return six


TERMINATING = {"ready": False, "serving": True, "terminating": True}
LOCAL = {"externalTrafficPolicy": "Local"}
BRIEF = 1  # second
BRIEFLY = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": BRIEF}}}
SERVICES = [
    service("web", "10.96.0.10", node_port=30080),
    service("all", "10.96.0.11", node_port=30081),
    service("none", "10.96.0.12", node_port=30082),
    service("self", "10.96.0.13"),
    service("local", "10.96.0.14", node_port=30084, **LOCAL),
    service("away", "10.96.0.15", node_port=30085, **LOCAL),
    service("inner", "10.96.0.16", internalTrafficPolicy="Local"),
    service("inner-away", "10.96.0.17", internalTrafficPolicy="Local"),
    service("ending", "10.96.0.18"),
    service("external", "10.96.0.19", externalIPs=["203.0.113.7"]),
    service("dead", "10.96.0.20"),
    service("half-dead", "10.96.0.21"),
    service("machines", "10.96.0.22"),
    service("sticky", "10.96.0.23", node_port=30086, sessionAffinity="ClientIP", externalIPs=["203.0.113.8"]),
    service("afar", "10.96.0.24", node_port=30087),
    service("rollout", "10.96.0.25"),
    service("leaving", "10.96.0.26", node_port=30088, **LOCAL),
    service("external-local", "10.96.0.27", externalIPs=["203.0.113.9"], **LOCAL),
    service("external-away", "10.96.0.28", externalIPs=["203.0.113.10"], **LOCAL),
    service("external-none", "10.96.0.29", externalIPs=["203.0.113.11"]),
    service("brief", "10.96.0.30", externalIPs=["203.0.113.12"], **BRIEFLY),
    service("u-web", "10.96.1.10", node_port=30080, protocol=UDP),
    service("u-all", "10.96.1.11", node_port=30081, protocol=UDP),
    service("u-none", "10.96.1.12", node_port=30082, protocol=UDP),
    service("u-self", "10.96.1.13", protocol=UDP),
    service("u-local", "10.96.1.14", node_port=30084, protocol=UDP, **LOCAL),
    service("u-away", "10.96.1.15", node_port=30085, protocol=UDP, **LOCAL),
    service("u-inner", "10.96.1.16", protocol=UDP, internalTrafficPolicy="Local"),
    service("u-inner-away", "10.96.1.17", protocol=UDP, internalTrafficPolicy="Local"),
    service("u-external", "10.96.1.19", protocol=UDP, externalIPs=["203.0.113.7"]),
    service("u-half-dead", "10.96.1.21", protocol=UDP),
    service(
        "u-sticky",
        "10.96.1.23",
        node_port=30086,
        protocol=UDP,
        sessionAffinity="ClientIP",
        externalIPs=["203.0.113.8"],
    ),
    service("u-afar", "10.96.1.24", node_port=30087, protocol=UDP),
    service("u-rollout", "10.96.1.25", protocol=UDP),
    service("u-external-local", "10.96.1.27", protocol=UDP, externalIPs=["203.0.113.9"], **LOCAL),
    service("u-brief", "10.96.1.30", protocol=UDP, externalIPs=["203.0.113.12"], **BRIEFLY),
    balanced("few", "10.96.2.1", "198.51.100.1", " 192.168.77.0/28"),  # kube-proxy forgives a blank
    balanced("nobody", "10.96.2.2", "198.51.100.2", "172.16.0.0/12"),
    balanced("all-of-them", "10.96.2.3", "198.51.100.3"),
    balanced("few-local", "10.96.2.4", "198.51.100.4", "192.168.77.0/28", "10.244.0.0/16", **LOCAL),
    balanced("balanced-away", "10.96.2.5", "198.51.100.5", **LOCAL),
    balanced("u-few", "10.96.3.1", "198.51.100.1", "192.168.77.0/28", protocol=UDP),
    balanced("u-nobody", "10.96.3.2", "198.51.100.2", "172.16.0.0/12", protocol=UDP),
    balanced("u-few-local", "10.96.3.4", "198.51.100.4", "192.168.77.0/28", protocol=UDP, **LOCAL),
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
    endpoint_slice("afar", "web1", "remote2"),
    endpoint_slice("rollout", "web1"),
    endpoint_slice("rollout", "web2", "remote", conditions=TERMINATING, number=2),
    endpoint_slice("leaving", "web1", conditions=TERMINATING),
    endpoint_slice("leaving", "remote", number=2),
    endpoint_slice("external-local", "web1", "remote"),
    endpoint_slice("external-away", "remote"),
    endpoint_slice("external-none"),
    endpoint_slice("brief", "web1", "web2", "remote"),
    endpoint_slice("u-web", "web1", "web2", protocol=UDP),
    endpoint_slice("u-all", "web1", "web2", "remote", protocol=UDP),
    endpoint_slice("u-none", protocol=UDP),
    endpoint_slice("u-self", "web1", protocol=UDP),
    endpoint_slice("u-local", "web1", "remote", protocol=UDP),
    endpoint_slice("u-away", "remote", protocol=UDP),
    endpoint_slice("u-inner", "web1", "remote", protocol=UDP),
    endpoint_slice("u-inner-away", "remote", protocol=UDP),
    endpoint_slice("u-external", "web1", protocol=UDP),
    endpoint_slice("u-half-dead", "client", "web1", protocol=UDP),
    endpoint_slice("u-sticky", "web1", "web2", "remote", protocol=UDP),
    endpoint_slice("u-afar", "web1", "remote2", protocol=UDP),
    endpoint_slice("u-rollout", "web1", protocol=UDP),
    endpoint_slice("u-rollout", "web2", "remote", conditions=TERMINATING, protocol=UDP, number=2),
    endpoint_slice("u-external-local", "web1", "remote", protocol=UDP),
    endpoint_slice("u-brief", "web1", "web2", "remote", protocol=UDP),
    endpoint_slice("few", "web1"),
    endpoint_slice("nobody", "web1"),
    endpoint_slice("all-of-them", "web1", "remote"),
    endpoint_slice("few-local", "web1", "remote"),
    endpoint_slice("balanced-away", "remote"),
    endpoint_slice("u-few", "web1", protocol=UDP),
    endpoint_slice("u-nobody", "web1", protocol=UDP),
    endpoint_slice("u-few-local", "web1", "remote", protocol=UDP),
]
DUAL_SERVICES = [dual_stack(made) for made in SERVICES]
DUAL_SLICES = [*SLICES, *map(slice_in_six, SLICES)]

CLIENT, WEB1, HOST, REMOTE, N2, OUTSIDE = Where
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
    Flow(CLIENT, "rollout", served("web1"), "beside a ready endpoint, terminating ones get nothing new"),
    Flow(HOST, "rollout", served("web1", seen=NODE), "from whomever"),
    Flow(OUTSIDE, f"{N1}:30088", served("web1"), "policy Local: here all are terminating, so one of them"),
    Flow(CLIENT, f"{N1}:30088", served("remote"), "the cluster's own have a ready one elsewhere"),
    Flow(
        REMOTE, f"{N1}:30080", served("web1", "web2"), "a pod of another node, by NodePort: its own address"
    ),
    Flow(
        REMOTE,
        f"{N1}:30081",
        served("web1", "web2", "remote", away=NODE),
        "what answers to this node only is what runs here, or sees its address",
    ),
    Flow(
        REMOTE, f"{N1}:30087", served("web1", "remote2", away=NODE), "so its neighbour must not see its own"
    ),
    Flow(REMOTE, f"{N1}:30082", REFUSED, "without endpoints"),
    Flow(REMOTE, f"{N1}:30084", served("web1", "remote"), "policy Local is not for the cluster's own pods"),
    Flow(REMOTE, f"{N1}:30085", served("remote"), "also where none is here"),
    Flow(REMOTE, "203.0.113.7:80", served("web1"), "an externalIP that the network leads to this node"),
    Flow(REMOTE, "198.51.100.3:80", served("web1", "remote"), "a load balancer's address that it does"),
    Flow(REMOTE, "198.51.100.1:80", DROPPED, "in whose ranges pods are not"),
    Flow(REMOTE, "198.51.100.4:80", served("web1", "remote"), "in whose ranges they are"),
    Flow(REMOTE, f"203.0.113.7:{NODE_AGENT_PORT}", REFUSED, "a node's own port through an externalIP"),
    Flow(REMOTE, f"{ADDRESSES['web1']}:{PORT}", served("web1"), "a pod's own address is no Service's"),
    Flow(CLIENT, f"{ADDRESSES['remote']}:{PORT}", served("remote"), "in either direction"),
    Flow(N2, f"{N1}:30080", served("web1", "web2", seen=NODE), "another node is a client from outside"),
    Flow(N2, f"{N1}:30081", served("web1", "web2", "remote", seen=NODE), "also of its own pods"),
    Flow(N2, f"{N1}:30084", served("web1"), "policy Local keeps its address"),
    Flow(N2, f"{N1}:30085", DROPPED, "and is silent to it"),
    Flow(N2, "198.51.100.1:80", served("web1", seen=NODE), "in the ranges of a load balancer"),
    Flow(CLIENT, "203.0.113.7:80", served("web1"), "an externalIP"),
    Flow(OUTSIDE, "203.0.113.7:80", served("web1", seen=NODE), "from outside it is as a NodePort"),
    Flow(OUTSIDE, "203.0.113.9:80", served("web1"), "policy Local holds for it"),
    Flow(OUTSIDE, "203.0.113.10:80", DROPPED, "with its silence"),
    Flow(OUTSIDE, "203.0.113.11:80", REFUSED, "without endpoints"),
    Flow(OUTSIDE, "203.0.113.7:81", REFUSED, "a port that the Service does not have"),
    Flow(OUTSIDE, f"203.0.113.7:{NODE_AGENT_PORT}", REFUSED, "a node's own port, through an externalIP"),
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
    Flow(OUTSIDE, "198.51.100.3:80", served("web1", "remote", seen=NODE), "one without ranges is for all"),
    Flow(OUTSIDE, "198.51.100.4:80", served("web1"), "policy Local, in its ranges"),
    Flow(OUTSIDE, "198.51.100.5:80", DROPPED, "policy Local with none here"),
    Flow(CLIENT, "198.51.100.5:80", served("remote"), "but not for pods"),
    Flow(OUTSIDE, f"198.51.100.3:{NODE_AGENT_PORT}", REFUSED, "a node's own port, through a load balancer's"),
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
    Flow(CLIENT, "u-inner", served("web1"), "internalTrafficPolicy Local", protocol=UDP),
    Flow(CLIENT, "u-inner-away", DROPPED, "internalTrafficPolicy Local with none here", protocol=UDP),
    Flow(CLIENT, "u-rollout", served("web1"), "terminating endpoints get nothing new", protocol=UDP),
    Flow(REMOTE, f"{N1}:30080", served("web1", "web2"), "a pod of another node by NodePort", protocol=UDP),
    Flow(REMOTE, f"{N1}:30087", served("web1", "remote2", away=NODE), "its neighbour by ours", protocol=UDP),
    Flow(N2, f"{N1}:30081", served("web1", "web2", "remote", seen=NODE), "another node", protocol=UDP),
    Flow(N2, f"{N1}:30085", DROPPED, "to which policy Local is silent", protocol=UDP),
    Flow(REMOTE, "203.0.113.7:80", served("web1"), "an externalIP that is led to this node", protocol=UDP),
    Flow(CLIENT, "203.0.113.7:80", served("web1"), "an externalIP", protocol=UDP),
    Flow(OUTSIDE, "203.0.113.7:80", served("web1", seen=NODE), "from outside as a NodePort", protocol=UDP),
    Flow(OUTSIDE, "203.0.113.9:80", served("web1"), "policy Local holds for it", protocol=UDP),
    Flow(OUTSIDE, f"203.0.113.7:{NODE_AGENT_PORT}", REFUSED, "a node's own UDP port", protocol=UDP),
    Flow(OUTSIDE, "198.51.100.1:80", served("web1", seen=NODE), "a load balancer's ranges", protocol=UDP),
    Flow(CLIENT, "198.51.100.1:80", DROPPED, "hold for pods as well", protocol=UDP),
    Flow(OUTSIDE, "198.51.100.2:80", DROPPED, "and for clients outside", protocol=UDP),
    Flow(OUTSIDE, "198.51.100.4:80", served("web1"), "policy Local, in its ranges", protocol=UDP),
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

# With nodePortAddresses: those of SECOND_NETWORK only.
CHOSEN_FLOWS = [
    Flow(OUTSIDE, f"{SECOND}:30080", served("web1", "web2", seen=NODE), "an address that is chosen"),
    Flow(CLIENT, f"{SECOND}:30080", served("web1", "web2"), "for pods"),
    Flow(HOST, f"{SECOND}:30080", served("web1", "web2", seen=NODE), "and for the node"),
    Flow(OUTSIDE, f"{SECOND}:30084", served("web1"), "policy Local holds there"),
    Flow(OUTSIDE, f"{N1}:30080", REFUSED, "an address that is not"),
    Flow(CLIENT, f"{N1}:30080", REFUSED, "for pods"),
    Flow(HOST, f"{N1}:30080", REFUSED, "and for the node"),
    Flow(HOST, "127.0.0.1:30080", REFUSED, "loopback is not"),
    Flow(CLIENT, "web", served("web1", "web2"), "the ClusterIP is not touched"),
    Flow(OUTSIDE, f"{SECOND}:30080", served("web1", "web2", seen=NODE), "chosen", protocol=UDP),
    Flow(CLIENT, f"{SECOND}:30080", served("web1", "web2"), "for pods", protocol=UDP),
    Flow(HOST, f"{SECOND}:30080", served("web1", "web2", seen=NODE), "for the node", protocol=UDP),
    Flow(OUTSIDE, f"{N1}:30080", REFUSED, "not chosen", protocol=UDP),
    Flow(CLIENT, f"{N1}:30080", REFUSED, "for pods", protocol=UDP),
    Flow(HOST, f"{N1}:30080", REFUSED, "for the node", protocol=UDP),
    Flow(HOST, "127.0.0.1:30080", REFUSED, "loopback is not", protocol=UDP),
]
