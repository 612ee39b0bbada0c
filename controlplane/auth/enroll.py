"""The joining machine's side of `join`: trust by the CA's hash, make keys, ask, and write the files.

The CA itself comes with the API server's TLS handshake (its certificate file holds the chain) and is believed
only if its public key has the hash that the person typed; the token is sent after that, to a verified server.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth.files import write_kubeconfig
from controlplane.auth.identities import dns_identity, node_identity, proxy_identity
from controlplane.auth.join import KEYS, SERVING_KEY
from controlplane.auth.pki import Pair, key_hash, key_pem, new_key, signing_request, write_file
from netplane.errors import ConfigError, PeerError, cause_of


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The keys a machine has made for itself, before it has certificates for them."""

    node: str
    addresses: tuple[str, ...]
    keys: Mapping[str, ec.EllipticCurvePrivateKey]

    @classmethod
    def begin(cls, node: str, addresses: Iterable[object]) -> Enrolment:
        """Fresh keys for the node named `node`."""
        return cls(node, tuple(map(str, addresses)), {key: new_key() for key in KEYS})

    def request(self, token: str) -> dict[str, Any]:
        """The body of `POST /netplane/v1/join`."""
        csrs = {key: signing_request(private, self.node).decode() for key, private in self.keys.items()}
        return {"token": token, "nodeName": self.node, "addresses": list(self.addresses), "csrs": csrs}

    def write(self, etc: Path, response: Mapping[str, Any], server: str) -> None:
        """The node's files in its `etc/netplane` directory, from the answer to the request.

        Raises PeerError if the answer lacks what it must hold.
        """
        try:
            ca = str(response["ca"]).encode()
            pairs = {
                key: Pair(str(response["certificates"][key]).encode(), key_pem(private))
                for key, private in self.keys.items()
            }
        except (KeyError, TypeError) as error:
            raise PeerError(f"cannot join through {server}: its answer lacks {error}") from error
        write_file(etc / "pki" / "ca.crt", ca, 0o644)
        pairs[SERVING_KEY].write(etc / "pki" / "node.crt", etc / "pki" / "node.key")
        users = {"node": node_identity, "proxy": proxy_identity, "dns": dns_identity}
        for key, identity in users.items():
            write_kubeconfig(etc / f"{key}.kubeconfig", server, ca, pairs[key], identity(self.node).name)


def trusted_authority(chain: Iterable[bytes], wanted_hash: str) -> bytes:
    """The certificate (PEM) in a presented chain (DER) whose public key has `wanted_hash`.

    Raises ConfigError: the hash is malformed, or the server is not of the cluster that was meant.
    """
    digest = wanted_hash.removeprefix("sha256:")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ConfigError(
            f"cannot use --ca-hash {wanted_hash!r}: it is not sha256: and 64 hexadecimal digits"
        )
    for der in chain:
        certificate = x509.load_der_x509_certificate(der)
        if key_hash(certificate) == f"sha256:{digest}":
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise ConfigError(
        f"cannot trust the API server: no certificate it presents has the hash sha256:{digest}",
        "Another cluster answers there, or the hash is mistyped",
    )


def presented_chain(host: str, port: int, timeout: float = 10.0) -> list[bytes]:
    """The certificates (DER) a TLS server presents, not verified. Blocking. Raises PeerError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            return _unverified_chain(tls)
    except OSError as error:
        raise PeerError(f"cannot reach the API server at {host}:{port}: {cause_of(error)}") from error


def _unverified_chain(tls: ssl.SSLSocket) -> list[bytes]:
    """Python 3.13 made this public; before, the same method exists on the inner object, with its own type."""
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner = getattr(tls, "_sslobj")  # noqa: B009
    chain = inner.get_unverified_chain() or []
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]
