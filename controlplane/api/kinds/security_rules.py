"""What is wrong with the users, groups and powers that a pod asks for.

Source: Kubernetes `pkg/apis/core/validation/validation.go` (ValidateSecurityContext, validatePodSecurityContext).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.api.kinds import causes
from netplane.kube.errors import Cause

Fields = Mapping[str, Any]

HIGHEST_ID = 2**31 - 1
_RANGE = f"must be between 0 and {HIGHEST_ID}, inclusive"


def pod_security_causes(context: Fields, path: str) -> list[Cause]:
    """What is wrong with a pod's `securityContext`."""
    found = _id_causes(context, ("runAsUser", "runAsGroup", "fsGroup"), path)
    found += [
        causes.invalid(f"{path}.supplementalGroups[{index}]", group, _RANGE)
        for index, group in enumerate(context.get("supplementalGroups") or [])
        if not 0 <= group <= HIGHEST_ID
    ]
    return found


def container_security_causes(context: Fields, path: str) -> list[Cause]:
    """What is wrong with a container's `securityContext`."""
    found = _id_causes(context, ("runAsUser", "runAsGroup"), path)
    if context.get("allowPrivilegeEscalation") is not False:
        return found
    added = (context.get("capabilities") or {}).get("add") or []
    for what, said in (
        ("`privileged` to true", bool(context.get("privileged"))),
        ("`capabilities.Add` CAP_SYS_ADMIN", "CAP_SYS_ADMIN" in added),
    ):
        if said:
            detail = f"cannot set `allowPrivilegeEscalation` to false and {what}"
            found.append(causes.invalid(path, dict(context), detail))
    return found


def _id_causes(context: Fields, fields: tuple[str, ...], path: str) -> list[Cause]:
    return [
        causes.invalid(f"{path}.{field}", context[field], _RANGE)
        for field in fields
        if context.get(field) is not None and not 0 <= context[field] <= HIGHEST_ID
    ]
