"""ServiceAccount tokens: signed claims that stand for an account until they end.

The format is Kubernetes' own (a JWT whose claim ``kubernetes.io`` names the account and what the token is bound to),
signed with ECDSA P-256 by a key that does nothing else. Whether the account still exists is not said here: see
`controlplane.api.requests.callers`.
Source: RFC 7519; Kubernetes `pkg/serviceaccount/claims.go`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth.identities import ACCOUNT_PREFIX
from controlplane.auth.pki import key_pem, load_key, new_key, write_file
from netplane.errors import ConfigError, cause_of

KEY_FILE = "sa.key"
ALGORITHM = "ES256"
PRIVATE_CLAIM = "kubernetes.io"
BOUND_KINDS = ("pod", "secret", "node")


@dataclass(frozen=True, slots=True)
class Named:
    """An object that a token names: it counts only while an object of this name has this uid."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. ``bound`` has, by kind (pod, secret, node), what the token ends with."""

    namespace: str
    account: Named
    audiences: tuple[str, ...]
    issued: datetime
    expires: datetime
    bound: Mapping[str, Named] = field(default_factory=dict)
    id: str = ""

    @property
    def subject(self) -> str:
        """The user that the token stands for."""
        return f"{ACCOUNT_PREFIX}{self.namespace}:{self.account.name}"


@dataclass(frozen=True, slots=True)
class Issuer:
    """The key that signs a cluster's tokens, and the name it signs as: also the audience of its API."""

    key: ec.EllipticCurvePrivateKey
    name: str

    @property
    def key_id(self) -> str:
        """The key's name in a token's header: a hash of the public key."""
        public = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(public).hexdigest()[:32]

    def issue(self, claims: Claims) -> str:
        """A new token, with an id of its own."""
        private: dict[str, Any] = {"namespace": claims.namespace, "serviceaccount": _written(claims.account)}
        private |= {kind: _written(named) for kind, named in claims.bound.items()}
        payload = {
            "aud": list(claims.audiences),
            "exp": int(claims.expires.timestamp()),
            "iat": int(claims.issued.timestamp()),
            "iss": self.name,
            "jti": str(uuid4()),
            PRIVATE_CLAIM: private,
            "nbf": int(claims.issued.timestamp()),
            "sub": claims.subject,
        }
        return jwt.encode(payload, self.key, ALGORITHM, headers={"kid": self.key_id})

    def read(self, token: str, audiences: Sequence[str], now: datetime) -> Claims:
        """The claims of our own token, valid now for one of the audiences. Raises ValueError saying why it is not."""
        try:
            payload = jwt.decode(
                token,
                self.key.public_key(),
                [ALGORITHM],
                options={  # the times are compared below, with the clock that is passed
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "require": ["aud", "exp", "nbf", "iat", "sub", PRIVATE_CLAIM],
                },
                audience=list(audiences),
                issuer=self.name,
            )
            claims = _claims(payload)
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"invalid bearer token: {error}") from None
        if payload["sub"] != claims.subject or not payload["nbf"] <= now.timestamp() < payload["exp"]:
            raise ValueError("invalid bearer token: it has expired, is not valid yet, or names two accounts")
        return claims


def ensure_key(pki: Path) -> None:
    """The file that `load_issuer` reads, made if it is not there: who replaces it ends all tokens."""
    if not (pki / KEY_FILE).exists():
        write_file(pki / KEY_FILE, key_pem(new_key()), 0o600)


def load_issuer(pki: Path, cluster_domain: str) -> Issuer:
    """The issuer whose key is in `pki`. Raises ConfigError."""
    path = pki / KEY_FILE
    try:
        return Issuer(load_key(path), f"https://kubernetes.default.svc.{cluster_domain}")
    except FileNotFoundError:
        hint = "`netplane up` and `netplane lab up` make it"
        raise ConfigError(f"cannot sign ServiceAccount tokens: {path} does not exist", hint) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot sign ServiceAccount tokens with {path}: {cause_of(error)}") from None


def _written(named: Named) -> dict[str, str]:
    return {"name": named.name, "uid": named.uid}


def _named(value: Mapping[str, Any]) -> Named:
    return Named(str(value["name"]), str(value["uid"]))


def _claims(payload: Mapping[str, Any]) -> Claims:
    """Raises KeyError or TypeError where the payload is not one of ours."""
    private, audiences = payload[PRIVATE_CLAIM], payload["aud"]
    return Claims(
        namespace=str(private["namespace"]),
        account=_named(private["serviceaccount"]),
        audiences=(audiences,) if isinstance(audiences, str) else tuple(audiences),
        issued=datetime.fromtimestamp(payload["iat"], UTC),
        expires=datetime.fromtimestamp(payload["exp"], UTC),
        bound={kind: _named(private[kind]) for kind in BOUND_KINDS if kind in private},
        id=str(payload.get("jti", "")),
    )
