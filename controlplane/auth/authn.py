"""Who is calling: the user that a verified client certificate or a known bearer token stands for.

TLS has verified the certificate against the cluster's authority before anything here sees it; this room
only reads the names in it (RFC 5280 subject: CN is the user, each O a group, as in Kubernetes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from controlplane.auth.identities import AUTHENTICATED


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated caller. `groups` always holds system:authenticated."""

    name: str
    groups: tuple[str, ...]


NO_TOKENS: Mapping[str, User] = MappingProxyType({})


def identify(
    peer_certificate: Mapping[str, object] | None,
    bearer: str | None,
    tokens: Mapping[str, User] = NO_TOKENS,
) -> User | None:
    """The caller, or None for a caller without a credential we know (a 401).

    `peer_certificate` is what `ssl.SSLObject.getpeercert()` gives: None or empty without a certificate.
    `tokens` maps `token_digest(token)` to its user: no table of secrets, and no comparison whose time
    tells how much of a token was right.
    """
    if peer_certificate:
        user = _from_subject(peer_certificate)
        if user is not None:
            return user
    return tokens.get(token_digest(bearer)) if bearer else None


def token_digest(token: str) -> str:
    """The key of a token in a table of tokens."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _from_subject(certificate: Mapping[str, object]) -> User | None:
    names: list[str] = []
    groups: list[str] = []
    for attribute, value in _attributes(certificate.get("subject")):
        if attribute == "commonName":
            names.append(value)
        elif attribute == "organizationName":
            groups.append(value)
    if not names or not names[-1]:
        return None
    return User(names[-1], (*dict.fromkeys(groups), AUTHENTICATED))


def _attributes(subject: object) -> Iterator[tuple[str, str]]:
    """(name, value) of each attribute of each RDN of a subject as `getpeercert` spells it."""
    for rdn in subject if isinstance(subject, tuple) else ():
        yield from rdn
