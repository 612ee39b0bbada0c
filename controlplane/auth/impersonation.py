"""Acting as somebody else (``kubectl --as``): headers that only those who may do everything may send. Pure.

Source: Kubernetes `endpoints/filters/impersonation.go`; "User impersonation" of its documentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from controlplane.auth.authn import User, account_groups
from controlplane.auth.identities import ACCOUNT_PREFIX, AUTHENTICATED, MASTERS
from netplane.kube.errors import bad_request, forbidden

_USER, _GROUP, _UID, _EXTRA = "impersonate-user", "impersonate-group", "impersonate-uid", "impersonate-extra-"


def impersonated(user: User, headers: Iterable[tuple[str, str]]) -> User:
    """Who the request is made as: `user` without such headers. Raises StatusError 400 or 403."""
    meant = [(key.lower(), value) for key, value in headers if key.lower().startswith("impersonate-")]
    if not meant:
        return user
    name = next((value for key, value in meant if key == _USER), "")
    if not name:
        raise bad_request(f"requested {sorted({key for key, _ in meant})} without impersonating a user")
    if MASTERS not in user.groups:
        raise _refusal(user, name)
    groups = [value for key, value in meant if key == _GROUP]
    namespace, _, account = name.removeprefix(ACCOUNT_PREFIX).partition(":")
    if not groups and name.startswith(ACCOUNT_PREFIX) and account:
        groups = list(account_groups(namespace))
    extra: dict[str, tuple[str, ...]] = {}
    for key, value in meant:
        if key.startswith(_EXTRA):
            about = unquote(key.removeprefix(_EXTRA))
            extra[about] = (*extra.get(about, ()), value)
    uid = next((value for key, value in meant if key == _UID), "")
    return User(name, tuple(dict.fromkeys((*groups, AUTHENTICATED))), uid, tuple(extra.items()))


def _refusal(user: User, name: str) -> Exception:
    namespace, _, account = name.removeprefix(ACCOUNT_PREFIX).partition(":")
    if name.startswith(ACCOUNT_PREFIX) and account:
        return forbidden(user.name, "impersonate", "", "serviceaccounts", namespace, account)
    return forbidden(user.name, "impersonate", "", "users", "", name)
