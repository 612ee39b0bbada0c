"""The certificate and kubeconfig files of each machine, made by who holds the authority.

`write_cluster` makes what a control plane machine needs, `write_node` what a node needs. Both may be run at
every start: a file that is still good is left alone; one that nears its end, lacks a name or address that is
wanted now, or comes from another authority is replaced.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from cryptography import x509

from controlplane.auth.identities import (
    ADMIN,
    API_SERVER,
    CONTROLLERS,
    Identity,
    dns_identity,
    node_identity,
    proxy_identity,
)
from controlplane.auth.pki import Authority, Pair, load_key, write_file
from controlplane.auth.tokens import ensure_key
from netplane.kube import kubeconfig


def write_cluster(
    etc: Path,
    *,
    server: str,
    addresses: Iterable[object],
    service_addresses: Iterable[object] = ("10.96.0.1",),
    names: Sequence[str] = (),
    zone: str = "cluster.local",
) -> Authority:
    """Everything a control plane machine needs, in its `etc/netplane` directory `etc`.

    `server` is the URL in the kubeconfigs; `addresses` are the machine's own, `service_addresses` those of
    the Service default/kubernetes, `names` further DNS names. Makes `.crt` and `.key` of `pki/ca`, `pki/apiserver` and
    `pki/apiserver-kubelet-client`, `pki/sa.key`, `admin.kubeconfig` and `controlplane.kubeconfig`.
    Raises ConfigError if what is there is not a usable authority.
    """
    pki = etc / "pki"
    authority = Authority.create(pki)
    ensure_key(pki)
    sans = [*api_server_names(zone), *names, "127.0.0.1", "::1"]
    sans += [str(address) for address in (*service_addresses, *addresses)]
    ensure_server(authority, pki, "apiserver", "kube-apiserver", sans)
    ensure_client(authority, pki, "apiserver-kubelet-client", API_SERVER)
    ensure_kubeconfig(authority, etc / "admin.kubeconfig", server, ADMIN)
    ensure_kubeconfig(authority, etc / "controlplane.kubeconfig", server, CONTROLLERS)
    return authority


def write_node(
    etc: Path, authority: Authority, *, node: str, addresses: Iterable[object], server: str
) -> None:
    """Everything a node needs, in its `etc/netplane` directory: its serving pair and three kubeconfigs."""
    pki = etc / "pki"
    write_file(pki / "ca.crt", authority.certificate_pem, 0o644)
    sans = [node, "localhost", "127.0.0.1", *(str(address) for address in addresses)]
    ensure_server(authority, pki, "node", f"system:node:{node}", sans)
    ensure_kubeconfig(authority, etc / "node.kubeconfig", server, node_identity(node))
    ensure_kubeconfig(authority, etc / "proxy.kubeconfig", server, proxy_identity(node))
    ensure_kubeconfig(authority, etc / "dns.kubeconfig", server, dns_identity(node))


def api_server_names(zone: str) -> tuple[str, ...]:
    """The DNS names by which pods and machines reach the API server."""
    service = "kubernetes.default"
    return ("kubernetes", service, f"{service}.svc", f"{service}.svc.{zone}", "localhost")


def ensure_server(authority: Authority, pki: Path, base: str, common_name: str, sans: Sequence[str]) -> None:
    """`base.crt` and `base.key` in `pki`: a serving pair that has `sans`."""
    certificate, key = pki / f"{base}.crt", pki / f"{base}.key"
    if not _good(authority, certificate, key, sans):
        authority.issue_server(common_name, sans).write(certificate, key)


def ensure_client(authority: Authority, pki: Path, base: str, identity: Identity) -> None:
    """`base.crt` and `base.key` in `pki`: a client pair."""
    certificate, key = pki / f"{base}.crt", pki / f"{base}.key"
    if not _good(authority, certificate, key, ()):
        authority.issue_client(identity.name, identity.groups).write(certificate, key)


def ensure_kubeconfig(authority: Authority, path: Path, server: str, identity: Identity) -> None:
    """A kubeconfig at `path` (0600) that reaches `server` as `identity`."""
    if not _good_kubeconfig(authority, path, server):
        pair = authority.issue_client(identity.name, identity.groups)
        write_kubeconfig(path, server, authority.certificate_pem, pair, identity.name)


def write_kubeconfig(path: Path, server: str, ca_pem: bytes, pair: Pair, user: str) -> None:
    """A kubeconfig with its certificates inside, readable by its owner only."""
    text = kubeconfig.render(server, ca_pem, pair.certificate_pem, pair.key_pem, user)
    write_file(path, text.encode(), 0o600)


def _good(authority: Authority, certificate: Path, key: Path, sans: Sequence[str]) -> bool:
    try:
        leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
        matching = load_key(key).public_key() == leaf.public_key()
    except (OSError, ValueError):
        return False
    return matching and authority.vouches_for(leaf, sans)


def _good_kubeconfig(authority: Authority, path: Path, server: str) -> bool:
    try:
        document = yaml.safe_load(path.read_text())
        same_server = document["clusters"][0]["cluster"]["server"] == server
        data = base64.b64decode(document["users"][0]["user"]["client-certificate-data"])
        leaf = x509.load_pem_x509_certificate(data)
    except (OSError, ValueError, yaml.YAMLError, KeyError, IndexError, TypeError):
        return False
    return same_server and authority.vouches_for(leaf)
