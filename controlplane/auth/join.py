"""A further machine joins: a short-lived token buys the certificates of exactly one node.

`answer` decides: it checks the token, the node's name and addresses against the Nodes that exist, and signs
the four keys the machine has made for itself. No private key ever travels. Tokens look like kubeadm's
(`id.secret`, 6 and 16 characters of [a-z0-9]); only their digests are kept, so the file betrays none.
"""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from controlplane.auth.authn import token_digest
from controlplane.auth.identities import Identity, dns_identity, node_identity, proxy_identity
from controlplane.auth.pki import Authority, write_file
from netplane.errors import ConfigError, cause_of
from netplane.kube.errors import Cause, StatusError, bad_request, invalid
from netplane.kube.objects import Object, name_of, parse_time, rfc3339
from netplane.kube.resources import NODES

TOKEN_LIFE = timedelta(hours=24)
_TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
_NODE_NAME = re.compile(r"(?=.{1,63}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_ALPHABET = string.ascii_lowercase + string.digits

CLIENT_KEYS = ("node", "proxy", "dns")
SERVING_KEY = "serving"
KEYS = (*CLIENT_KEYS, SERVING_KEY)
"""What a joining machine makes keys for, and the names under which requests and certificates travel."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The join tokens of a cluster: a JSON file (0600) from each token's digest to its end of life."""

    path: Path

    def create(self, now: datetime, life: timedelta = TOKEN_LIFE) -> str:
        """A new token; drops those that have ended."""
        token = f"{_random(6)}.{_random(16)}"
        self.add(token, now, life)
        return token

    def add(self, token: str, now: datetime, life: timedelta = TOKEN_LIFE) -> None:
        """Accept a token that was made elsewhere. Raises ConfigError if it does not look like one."""
        if not _TOKEN.fullmatch(token):
            raise ConfigError(
                "cannot accept the token: it does not look like one", "A token is abcdef.0123456789abcdef"
            )
        alive = {digest: end for digest, end in self._read().items() if parse_time(end) > now}
        self._write({**alive, token_digest(token): rfc3339(now + life)})

    def accepts(self, token: str, now: datetime) -> bool:
        """Whether the token was made here and has not ended."""
        end = self._read().get(token_digest(token)) if _TOKEN.fullmatch(token) else None
        return end is not None and now < parse_time(end)

    def revoke(self, token: str) -> bool:
        """Forget a token; False if it was not known."""
        kept = self._read()
        known = kept.pop(token_digest(token), None) is not None
        if known:
            self._write(kept)
        return known

    def _read(self) -> dict[str, str]:
        try:
            kept = json.loads(self.path.read_text())
            if not isinstance(kept, dict):
                raise ValueError("it is not a JSON object")
            for end in kept.values():
                parse_time(end)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"cannot read the join tokens in {self.path}: {cause_of(error)}",
                "Remove the file and make new tokens",
            ) from error
        return kept

    def _write(self, kept: Mapping[str, str]) -> None:
        write_file(self.path, json.dumps(dict(kept), indent=1).encode(), 0o600)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A checked body of `POST /netplane/v1/join`."""

    token: str
    node: str
    addresses: tuple[str, ...]
    requests: Mapping[str, bytes]


def answer(
    body: object,
    *,
    authority: Authority,
    tokens: Tokens,
    nodes: Iterable[Object],
    cluster: Mapping[str, Any],
    now: datetime,
) -> Object:
    """The response to a join: `{"certificates": {key: PEM}, "ca": PEM, "cluster": settings}`.

    Raises StatusError: 400 for a body that is no object, 401 for the token (before anything else is looked
    at, so that a stranger learns nothing), 409 for a name or address another node has, 422 naming the field.
    """
    if not isinstance(body, dict):
        raise bad_request("a join request is a JSON object with token, nodeName, addresses and csrs")
    token = body.get("token")
    if not isinstance(token, str) or not tokens.accepts(token, now):
        raise StatusError(401, "Unauthorized", "cannot join: the token is unknown or has ended")
    request = _parse(token, body)
    _refuse_duplicates(request, nodes)
    certificates = _sign(request, authority)
    return {
        "certificates": {key: pem.decode() for key, pem in certificates.items()},
        "ca": authority.certificate_pem.decode(),
        "cluster": dict(cluster),
    }


def _parse(token: str, body: Mapping[str, object]) -> JoinRequest:
    causes: list[Cause] = []
    node = body.get("nodeName")
    if not isinstance(node, str) or not _NODE_NAME.match(node):
        causes.append(
            Cause("nodeName", f"Invalid value: {json.dumps(node)}: must be a lowercase RFC 1123 name")
        )
    addresses = body.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        causes.append(Cause("addresses", "Required value: the node's addresses", "FieldValueRequired"))
    else:
        causes += [
            Cause(f"addresses[{index}]", f"Invalid value: {json.dumps(address)}: must be an IP address")
            for index, address in enumerate(addresses)
            if not _usable_address(address)
        ]
    csrs = body.get("csrs")
    requests = csrs if isinstance(csrs, dict) else {}
    causes += [
        Cause(f"csrs.{key}", "Required value: a PEM certificate signing request", "FieldValueRequired")
        for key in KEYS
        if not isinstance(requests.get(key), str)
    ]
    name = node if isinstance(node, str) else ""
    if causes:
        raise invalid(NODES, name, causes)
    listed = addresses if isinstance(addresses, list) else []
    encoded = {key: str(requests[key]).encode("utf-8", "replace") for key in KEYS}
    return JoinRequest(token, name, tuple(listed), encoded)


def _usable_address(address: object) -> bool:
    try:
        parsed = ipaddress.ip_address(address) if isinstance(address, str) else None
    except ValueError:
        return False
    return parsed is not None and not (parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast)


def _refuse_duplicates(request: JoinRequest, nodes: Iterable[Object]) -> None:
    """The same machine may join again (same name and an address in common); another one may not."""
    mine = {ipaddress.ip_address(address) for address in request.addresses}
    for other in nodes:
        theirs = _addresses_of(other)
        taken = sorted(str(address) for address in mine & theirs)
        if name_of(other) == request.node:
            if theirs and not taken:
                held = ", ".join(sorted(map(str, theirs)))
                raise _refused(request.node, f"a node of this name exists at {held}")
        elif taken:
            raise _refused(request.node, f"address {taken[0]} belongs to node {name_of(other)}")


def _refused(node: str, cause: str) -> StatusError:
    text = f'cannot join "{node}": {cause}; use another, or delete that Node first'
    return StatusError(409, "AlreadyExists", text, {"name": node, "kind": NODES.plural})


def _addresses_of(node: Object) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found = set()
    for entry in (node.get("status") or {}).get("addresses") or []:
        if entry.get("type") in ("InternalIP", "ExternalIP"):
            found.add(ipaddress.ip_address(entry["address"]))
    return found


def _sign(request: JoinRequest, authority: Authority) -> dict[str, bytes]:
    node = request.node
    clients: dict[str, Identity] = {
        "node": node_identity(node),
        "proxy": proxy_identity(node),
        "dns": dns_identity(node),
    }
    signed: dict[str, bytes] = {}
    causes: list[Cause] = []
    for key, csr in request.requests.items():
        try:
            if key == SERVING_KEY:
                sans = (node, "localhost", "127.0.0.1", *request.addresses)
                signed[key] = authority.sign_server(csr, node_identity(node).name, sans)
            else:
                signed[key] = authority.sign_client(csr, clients[key].name, clients[key].groups)
        except ValueError as error:
            causes.append(Cause(f"csrs.{key}", f"Invalid value: {error}"))
    if causes:
        raise invalid(NODES, node, causes)
    return signed
