"""Everyone who has a certificate, by name and groups: `files` and `join` issue them, `authz` reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MASTERS = "system:masters"
NODES = "system:nodes"
NODE_PREFIX = "system:node:"
PROXIERS = "system:node-proxier"
RESOLVERS = "netplane:dns"
AUTHENTICATED = "system:authenticated"
MONITORING = "system:monitoring"
SERVICE_ACCOUNTS = "system:serviceaccounts"
ACCOUNT_PREFIX = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Identity:
    """What stands in a client certificate: the common name and the organizations."""

    name: str
    groups: tuple[str, ...]


ADMIN = Identity("kubernetes-admin", (MASTERS,))
CONTROLLERS = Identity("system:kube-controller-manager", (MASTERS,))
API_SERVER = Identity("kube-apiserver-kubelet-client", (MASTERS,))


def node_identity(node: str) -> Identity:
    """The agent of one node."""
    return Identity(NODE_PREFIX + node, (NODES,))


def proxy_identity(node: str) -> Identity:
    """The proxy of one node."""
    return Identity(f"system:kube-proxy:{node}", (PROXIERS,))


def dns_identity(node: str) -> Identity:
    """The DNS server of one node."""
    return Identity(f"system:dns:{node}", (RESOLVERS,))


def node_of(name: str, groups: Iterable[str]) -> str | None:
    """The node whose agent this user is, or None for any other user."""
    if NODES in groups and name.startswith(NODE_PREFIX):
        return name.removeprefix(NODE_PREFIX) or None
    return None
