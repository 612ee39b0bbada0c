"""Reviews: questions about who one is and what one may, asked by POST and never stored.

`kubectl auth whoami` and `kubectl auth can-i` are these. The answers come from the table that also decides.
Source: ``authentication.k8s.io/v1`` and ``authorization.k8s.io/v1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.api.kinds.kind import Kind
from controlplane.api.kinds.listed import listed_kind
from controlplane.api.kinds.shapes import type_errors
from controlplane.api.schema.published import shape_of
from controlplane.auth.authn import User
from controlplane.auth.authz import RIGHTS, allowed, allowed_path
from controlplane.auth.identities import AUTHENTICATED, MASTERS
from netplane.kube.errors import Cause, invalid
from netplane.kube.objects import Object
from netplane.kube.resources import Resource

_AUTHENTICATION, _AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"

Answer = Callable[[User, Mapping[str, Any]], Mapping[str, Any]]
"""(who asks, the review's spec) → its status."""


def _who(user: User, _spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"userInfo": {"username": user.name, "groups": list(user.groups)}}


def _may_i(user: User, spec: Mapping[str, Any]) -> Mapping[str, Any]:
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


def _may_they(_user: User, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    groups = tuple(dict.fromkeys([*(spec.get("groups") or []), AUTHENTICATED]))
    return _may_i(User(spec.get("user") or "", groups), spec)


def _my_rules(user: User, _spec: Mapping[str, Any]) -> Mapping[str, Any]:
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

    def ask(user: User, review: Object) -> Object:
        """Raises StatusError 422 for a question that is none."""
        causes = type_errors(shape_of(resource), review)
        spec = review.get("spec") or {}
        if not causes and "resourceAttributes" in _spec_fields(resource):
            causes = _one_question(spec)
        if causes:
            raise invalid(resource, "", causes)
        return {**review, "metadata": {"creationTimestamp": None}, "status": dict(answer(user, spec))}

    return listed_kind(resource, ask)


def _one_question(spec: Mapping[str, Any]) -> list[Cause]:
    given = [name for name in ("resourceAttributes", "nonResourceAttributes") if spec.get(name) is not None]
    if len(given) == 1:
        return []
    text = f"Invalid value: {given}: exactly one of nonResourceAttributes or resourceAttributes must be specified"
    return [Cause("spec.resourceAttributes", text)]


REVIEWS: tuple[Kind, ...] = (
    _review(_AUTHENTICATION, "SelfSubjectReview", _who),
    _review(_AUTHORIZATION, "SelfSubjectAccessReview", _may_i),
    _review(_AUTHORIZATION, "SelfSubjectRulesReview", _my_rules),
    _review(_AUTHORIZATION, "SubjectAccessReview", _may_they),
    _review(_AUTHORIZATION, "LocalSubjectAccessReview", _may_they, namespaced=True),
)
