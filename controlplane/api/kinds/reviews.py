"""Reviews: questions about who one is and what one may, asked by POST and never stored.

`kubectl auth whoami` and `kubectl auth can-i` are these, and what a server asks that got a ServiceAccount's token. The
answers come from the table that also decides, and from what also lets callers in.
Source: ``authentication.k8s.io/v1`` and ``authorization.k8s.io/v1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.api.kinds.kind import Asker, Kind
from controlplane.api.kinds.listed import listed_kind
from controlplane.api.kinds.shapes import type_errors
from controlplane.api.schema.published import shape_of
from controlplane.auth.authn import User
from controlplane.auth.authz import RIGHTS, allowed, allowed_path
from controlplane.auth.identities import AUTHENTICATED, MASTERS
from netplane.kube.errors import Cause, bad_request, invalid
from netplane.kube.objects import Object
from netplane.kube.resources import Resource

_AUTHENTICATION, _AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"

Answer = Callable[[Asker, Mapping[str, Any]], Mapping[str, Any]]
"""(who asks, the review's spec) → its status."""


def _who(asker: Asker, _spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"userInfo": asker.user.info}


def _whose(asker: Asker, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """A bad token is an answer, no error. Raises StatusError 400 where there is none."""
    if not spec.get("token"):
        raise bad_request("token is required for TokenReview in authentication")
    try:
        found = asker.authenticate(spec["token"], spec.get("audiences") or ())
    except ValueError as error:
        return {"user": {}, "error": str(error)}
    return {"authenticated": True, "user": found.user.info, "audiences": list(found.audiences)}


def _may_i(asker: Asker, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return _may(asker.user, spec)


def _may(user: User, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    if path := spec.get("nonResourceAttributes"):
        may = allowed_path(user, path.get("verb") or "", path.get("path") or "")
    else:
        asked = spec.get("resourceAttributes") or {}
        words = [
            asked.get(name) or ""
            for name in ("verb", "group", "resource", "subresource", "namespace", "name")
        ]
        may = allowed(user, *words)
    return {"allowed": may} if may else {"allowed": False, "reason": "no rule of netplane's table allows it"}


def _may_they(_asker: Asker, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = tuple(dict.fromkeys([*(spec.get("groups") or []), AUTHENTICATED]))
    return _may(User(spec.get("user") or "", groups), spec)


def _my_rules(asker: Asker, _spec: Mapping[str, Any]) -> Mapping[str, Any]:
    user = asker.user
    everything = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}] if MASTERS in user.groups else []
    rules = [
        {"verbs": sorted(right.verbs), "apiGroups": [right.group], "resources": sorted(right.resources)}
        for group in user.groups
        for right in RIGHTS.get(group, ())
    ]
    paths = [{"verbs": ["*"], "nonResourceURLs": ["*"]}] if everything else []
    return {"resourceRules": everything + rules, "nonResourceRules": paths, "incomplete": False}


def _spec_fields(resource: Resource) -> Mapping[str, object]:
    """The fields of a review's spec; a SelfSubjectReview has none."""
    spec = getattr(shape_of(resource), "fields", {}).get("spec")
    return getattr(spec, "fields", {})


def _review(group: str, kind: str, answer: Answer, *, namespaced: bool = False) -> Kind:
    resource = Resource(group, "v1", f"{kind.lower()}s", kind, namespaced=namespaced)

    def ask(asker: Asker, review: Object) -> Object:
        """Raises StatusError 422 for a question that is none."""
        causes = type_errors(shape_of(resource), review)
        spec = review.get("spec") or {}
        if not causes and "resourceAttributes" in _spec_fields(resource):
            causes = _one_question(spec)
        if causes:
            raise invalid(resource, "", causes)
        return {**review, "metadata": {"creationTimestamp": None}, "status": dict(answer(asker, spec))}

    return listed_kind(resource, ask)


def _one_question(spec: Mapping[str, Any]) -> list[Cause]:
    given = [name for name in ("resourceAttributes", "nonResourceAttributes") if spec.get(name) is not None]
    if len(given) == 1:
        return []
    text = f"Invalid value: {given}: exactly one of nonResourceAttributes or resourceAttributes must be specified"
    return [Cause("spec.resourceAttributes", text)]


REVIEWS: tuple[Kind, ...] = (
    _review(_AUTHENTICATION, "SelfSubjectReview", _who),
    _review(_AUTHENTICATION, "TokenReview", _whose),
    _review(_AUTHORIZATION, "SelfSubjectAccessReview", _may_i),
    _review(_AUTHORIZATION, "SelfSubjectRulesReview", _my_rules),
    _review(_AUTHORIZATION, "SubjectAccessReview", _may_they),
    _review(_AUTHORIZATION, "LocalSubjectAccessReview", _may_they, namespaced=True),
)
