"""ServiceAccount: a name that pods run under, and for which tokens are issued (`controlplane.api.writing.tokens`).

Source: Kubernetes `pkg/apis/core/validation/validation.go` (ValidateServiceAccount).
"""

from __future__ import annotations

from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import defaulting, name_fields, validating
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import SERVICEACCOUNTS

SERVICEACCOUNT = shape_of(SERVICEACCOUNTS)


def _default(_account: Object) -> None:
    """A ServiceAccount has no defaults."""


def _causes(_new: Object, _old: Object | None) -> list[Cause]:
    """Beside its metadata nothing can be wrong."""
    return []


KIND = Kind(
    resource=SERVICEACCOUNTS,
    default=defaulting(SERVICEACCOUNT, _default),
    validate=validating(SERVICEACCOUNTS, SERVICEACCOUNT, _causes),
    columns=(NAME, Column("Secrets", "string", lambda account: len(account.get("secrets") or [])), AGE),
    fields=name_fields,
    subresources=frozenset({"token"}),
)
