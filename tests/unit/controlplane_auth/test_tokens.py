"""ServiceAccount tokens: what one says comes back, and nothing but our own, in time, for us, is believed."""

import base64
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth.authn import User, of_claims
from controlplane.auth.impersonation import impersonated
from controlplane.auth.pki import new_key
from controlplane.auth.tokens import Claims, Issuer, Named, ensure_key, load_issuer
from netplane.errors import ConfigError
from netplane.kube.errors import StatusError

API = "https://kubernetes.default.svc.cluster.local"
ISSUER = Issuer(new_key(), API)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
CLAIMS = Claims("shop", Named("till", "u1"), (API,), NOW, NOW + HOUR, {"pod": Named("p", "u2")})
ADMIN = User("kubernetes-admin", ("system:masters", "system:authenticated"))


def payload(token: str) -> dict:
    return json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))


def test_a_token_says_what_kubernetes_tokens_say():
    token = ISSUER.issue(CLAIMS)
    said = payload(token)
    assert {**said, "jti": ""} == {
        "aud": [API],
        "exp": int((NOW + HOUR).timestamp()),
        "iat": int(NOW.timestamp()),
        "iss": API,
        "jti": "",
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "p", "uid": "u2"},
            "serviceaccount": {"name": "till", "uid": "u1"},
        },
        "nbf": int(NOW.timestamp()),
        "sub": "system:serviceaccount:shop:till",
    }
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "kid": ISSUER.key_id, "typ": "JWT"}


def test_a_token_is_its_user():
    token = ISSUER.issue(CLAIMS)
    user = of_claims(ISSUER.read(token, [API], NOW))
    assert (user.name, user.uid) == ("system:serviceaccount:shop:till", "u1")
    assert user.groups == (
        "system:serviceaccounts",
        "system:serviceaccounts:shop",
        "system:authenticated",
    )
    assert dict(user.extra) == {
        "authentication.kubernetes.io/credential-id": (f"JTI={payload(token)['jti']}",),
        "authentication.kubernetes.io/pod-name": ("p",),
        "authentication.kubernetes.io/pod-uid": ("u2",),
    }


def changed(token: str, **fields) -> str:
    head, _, signature = token.split(".")
    body = json.dumps({**payload(token), **fields}).encode()
    return f"{head}.{base64.urlsafe_b64encode(body).decode().rstrip('=')}.{signature}"


def unsigned(token: str) -> str:
    return jwt.encode(payload(token), None, "none")


@pytest.mark.parametrize(
    ("token", "audience", "when"),
    [
        (ISSUER.issue(CLAIMS), API, NOW + HOUR),
        (ISSUER.issue(CLAIMS), API, NOW - timedelta(seconds=1)),
        (ISSUER.issue(CLAIMS), "vault", NOW),
        (Issuer(new_key(), API).issue(CLAIMS), API, NOW),
        (Issuer(ISSUER.key, "https://elsewhere").issue(CLAIMS), API, NOW),
        (changed(ISSUER.issue(CLAIMS), sub="system:serviceaccount:shop:owner"), API, NOW),
        (unsigned(ISSUER.issue(CLAIMS)), API, NOW),
        (jwt.encode(payload(ISSUER.issue(CLAIMS)), "x" * 32, "HS256"), API, NOW),
        (jwt.encode({**payload(ISSUER.issue(CLAIMS)), "sub": "admin"}, ISSUER.key, "ES256"), API, NOW),
        (jwt.encode({"aud": API, "iss": API, "kubernetes.io": 7}, ISSUER.key, "ES256"), API, NOW),
        ("", API, NOW),
        ("a.b.c", API, NOW),
        ("é", API, NOW),
    ],
)
def test_what_is_not_believed(token, audience, when):
    with pytest.raises(ValueError, match="invalid bearer token"):
        ISSUER.read(token, [audience], when)


def test_the_key_is_made_once_and_for_its_owner(tmp_path):
    with pytest.raises(ConfigError, match=r"sa\.key does not exist"):
        load_issuer(tmp_path, "cluster.local")
    ensure_key(tmp_path)
    first = load_issuer(tmp_path, "cluster.local")
    ensure_key(tmp_path)
    assert load_issuer(tmp_path, "cluster.local").key_id == first.key_id
    assert isinstance(first.key, ec.EllipticCurvePrivateKey)
    assert (tmp_path / "sa.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "sa.key").write_text("no key")
    with pytest.raises(ConfigError, match="cannot sign ServiceAccount tokens"):
        load_issuer(tmp_path, "cluster.local")


ACTING = [
    ([], ADMIN),
    ([("Impersonate-User", "ann")], User("ann", ("system:authenticated",))),
    (
        [
            ("Impersonate-User", "ann"),
            ("Impersonate-Group", "ops"),
            ("impersonate-group", "dev"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-Acme.io%2FTeam", "a"),
            ("Impersonate-Extra-acme.io%2fteam", "b"),
        ],
        User("ann", ("ops", "dev", "system:authenticated"), "7", (("acme.io/team", ("a", "b")),)),
    ),
    (
        [("Impersonate-User", "system:serviceaccount:shop:till")],
        User(
            "system:serviceaccount:shop:till",
            ("system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"),
        ),
    ),
]


@pytest.mark.parametrize(("headers", "user"), ACTING)
def test_who_may_do_everything_may_act_as_anybody(headers, user):
    assert impersonated(ADMIN, headers) == user


@pytest.mark.parametrize(
    ("user", "headers", "code", "text"),
    [
        (User("bob", ()), [("Impersonate-User", "ann")], 403, 'users "ann" is forbidden: User "bob" cannot'),
        (
            User("bob", ()),
            [("Impersonate-User", "system:serviceaccount:shop:till")],
            403,
            'cannot impersonate resource "serviceaccounts" in API group "" in the namespace "shop"',
        ),
        (ADMIN, [("Impersonate-Group", "system:masters")], 400, "without impersonating a user"),
    ],
)
def test_others_may_not(user, headers, code, text):
    with pytest.raises(StatusError, match=text) as caught:
        impersonated(user, headers)
    assert caught.value.code == code
