"""Who is calling: the user that a verified client certificate or a ServiceAccount's claims stand for.

TLS has verified the certificate against the cluster's authority before anything here sees it; this room
only reads the names in it (RFC 5280 subject: CN is the user, each O a group, as in Kubernetes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from controlplane.auth.identities import AUTHENTICATED, SERVICE_ACCOUNTS
from controlplane.auth.tokens import Claims


@dataclass(frozen=True, slots=True)
class User:
    """An authenticated caller. `groups` always holds system:authenticated.

    `uid` and `extra` (key, values) are what else is known, as the API's UserInfo has it; most users have neither.
    """

    name: str
    groups: tuple[str, ...]
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def info(self) -> dict[str, object]:
        """The user as an ``authentication.k8s.io/v1`` UserInfo."""
        found: dict[str, object] = {"username": self.name, "groups": list(self.groups)}
        if self.uid:
            found["uid"] = self.uid
        if self.extra:
            found["extra"] = {key: list(values) for key, values in self.extra}
        return found


def token_digest(token: str) -> str:
    """The key of a token in a table of tokens: no secrets in it, and no comparison whose time tells of them."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def account_groups(namespace: str) -> tuple[str, ...]:
    """The groups of every ServiceAccount in a namespace."""
    return (SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}", AUTHENTICATED)


def of_claims(claims: Claims) -> User:
    """The user that a verified token stands for."""
    about = "authentication.kubernetes.io"
    extra = [(f"{about}/credential-id", (f"JTI={claims.id}",))] if claims.id else []
    for kind in ("node", "pod"):
        if named := claims.bound.get(kind):
            extra += [(f"{about}/{kind}-name", (named.name,)), (f"{about}/{kind}-uid", (named.uid,))]
    return User(claims.subject, account_groups(claims.namespace), claims.account.uid, tuple(extra))


def of_certificate(certificate: Mapping[str, object] | None) -> User | None:
    """The user in what `ssl.SSLObject.getpeercert()` gives, None where there is none."""
    if not certificate:
        return None
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
