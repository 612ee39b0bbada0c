"""Lease: who is alive, and who leads. Source: Kubernetes `pkg/apis/coordination/validation/validation.go`."""

from __future__ import annotations

from controlplane.api.kinds import causes
from controlplane.api.kinds.container_rules import NEGATIVE
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import defaulting, name_fields, validating
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import LEASES

LEASE = shape_of(LEASES)


def _default(lease: Object) -> None:
    lease.setdefault("spec", {})


def _causes(new: Object, _old: Object | None) -> list[Cause]:
    spec = new.get("spec") or {}
    found = []
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        found.append(causes.invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        found.append(causes.invalid("spec.leaseTransitions", transitions, NEGATIVE))
    return found


def _holder(lease: Object) -> str:
    return (lease.get("spec") or {}).get("holderIdentity") or ""


KIND = Kind(
    resource=LEASES,
    default=defaulting(LEASE, _default),
    validate=validating(LEASES, LEASE, _causes),
    columns=(NAME, Column("Holder", "string", _holder), AGE),
    fields=name_fields,
)
