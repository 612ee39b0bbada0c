"""A Deployment's strategy: how many pods may be missing, or too many, on the way to a new template.

Source: Kubernetes `pkg/apis/apps/validation/validation.go` (ValidateDeploymentStrategy).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from controlplane.api.kinds import causes
from controlplane.api.kinds.container_rules import NEGATIVE
from netplane.kube.errors import Cause

ROLLING = "RollingUpdate"
RECREATE = "Recreate"
QUARTER = "25%"
_PERCENT = re.compile(r"[0-9]+%")


def strategy_causes(strategy: Mapping[str, Any]) -> list[Cause]:
    """What is wrong with `spec.strategy`, defaults filled."""
    kind, rolling = strategy.get("type") or "", strategy.get("rollingUpdate")
    if kind not in (ROLLING, RECREATE):
        return [causes.not_supported("spec.strategy.type", kind, (ROLLING, RECREATE))]
    at = "spec.strategy.rollingUpdate"
    if kind == RECREATE:
        detail = "may not be specified when strategy `type` is 'Recreate'"
        return [causes.forbidden(at, detail)] if rolling is not None else []
    if rolling is None:
        return [causes.required(at, "this should be defaulted and never be nil")]
    unavailable, surge = rolling.get("maxUnavailable", QUARTER), rolling.get("maxSurge", QUARTER)
    found = share_causes(unavailable, f"{at}.maxUnavailable")
    found += share_causes(surge, f"{at}.maxSurge")
    if not found and share_of(unavailable) == share_of(surge) == 0:
        detail = "may not be 0 when `maxSurge` is 0"
        found.append(causes.invalid(f"{at}.maxUnavailable", unavailable, detail))
    if not found and isinstance(unavailable, str) and share_of(unavailable) > 100:
        found.append(causes.invalid(f"{at}.maxUnavailable", unavailable, "must not be greater than 100%"))
    return found


def share_causes(value: int | str, path: str) -> list[Cause]:
    """What is wrong with a number of pods, or a percentage of them."""
    if isinstance(value, int):
        return [causes.invalid(path, value, NEGATIVE)] if value < 0 else []
    if _PERCENT.fullmatch(value):
        return []
    detail = (
        "a valid percent string must be a numeric string followed by an ending '%' "
        "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
    )
    return [causes.invalid(path, value, detail)]


def share_of(value: int | str) -> int:
    """The number, or how many per cent, of a valid share."""
    return value if isinstance(value, int) else int(value.removesuffix("%"))
