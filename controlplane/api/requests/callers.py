"""Who is calling, as far as the cluster knows: a certificate's user, or a ServiceAccount that still exists.

A token is good while its signature, its time, its account and everything it is bound to are: deleting a pod ends
the tokens that were bound to it.
Source: Kubernetes `pkg/serviceaccount/claims.go` (Validate).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web

from controlplane.api.kinds.kind import Authenticated
from controlplane.api.memory.hub import Hub
from controlplane.api.memory.records import key_for
from controlplane.auth.authn import User, of_certificate, of_claims
from controlplane.auth.impersonation import impersonated
from controlplane.auth.tokens import Issuer, Named
from netplane.kube.errors import unauthorized
from netplane.kube.objects import meta, parse_time
from netplane.kube.resources import NODES, PODS, SECRETS, SERVICEACCOUNTS, Resource

BOUND: Mapping[str, Resource] = {"pod": PODS, "secret": SECRETS, "node": NODES}
LEEWAY = timedelta(seconds=60)
"""How long a token outlives the end that its object was given: the pod may still be saying goodbye."""


@dataclass(frozen=True, slots=True)
class Callers:
    """Tells users by their credentials; ``issuer`` is whose tokens are believed."""

    hub: Hub
    issuer: Issuer
    clock: Callable[[], datetime]

    def caller(self, request: web.Request) -> User | None:
        """Who makes a request, None without a credential. Raises StatusError 401 for one that is none, 403."""
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        user = of_certificate(certificate) or self._bearer(request.headers.get("Authorization", ""))
        return None if user is None else impersonated(user, request.headers.items())

    def authenticate(self, token: str, audiences: Sequence[str] = ()) -> Authenticated:
        """The user of a token that is good for one of the audiences (none given: the API). Raises ValueError."""
        wanted = tuple(audiences) or (self.issuer.name,)
        claims = self.issuer.read(token, wanted, self.clock())
        self._must_be(SERVICEACCOUNTS, claims.namespace, claims.account)
        for kind, named in claims.bound.items():
            self._must_be(BOUND[kind], claims.namespace, named)
        return Authenticated(of_claims(claims), tuple(word for word in wanted if word in claims.audiences))

    def _bearer(self, authorization: str) -> User | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        try:
            return self.authenticate(token.strip()).user
        except ValueError:
            raise unauthorized() from None

    def _must_be(self, resource: Resource, namespace: str, named: Named) -> None:
        """Raises ValueError unless there is an object of this name that is still the one meant."""
        record = self.hub.get(
            resource, key_for(resource, namespace if resource.namespaced else "", named.name)
        )
        if record is None or meta(record.obj).get("uid") != named.uid:
            raise ValueError(f"the token has been invalidated: its {resource.singular} is gone")
        end = meta(record.obj).get("deletionTimestamp")
        if end and parse_time(str(end)) + LEEWAY < self.clock():
            raise ValueError(f"the token has been invalidated: its {resource.singular} has been deleted")
