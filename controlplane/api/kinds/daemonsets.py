"""DaemonSet, and ControllerRevision, in which it keeps its old templates.

Source: Kubernetes `pkg/apis/apps/v1/defaults.go` and `pkg/apis/apps/validation/validation.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from controlplane.api.kinds import causes
from controlplane.api.kinds.container_rules import NEGATIVE
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.label_selector import selector_causes, selector_matches
from controlplane.api.kinds.metadata import (
    defaulting,
    name_fields,
    preparing,
    validating,
    validating_status,
    with_generation,
)
from controlplane.api.kinds.placement_rules import template_warnings
from controlplane.api.kinds.pod_defaults import default_template
from controlplane.api.kinds.printing import AGE, NAME, NONE, labels_text
from controlplane.api.kinds.strategy import ROLLING, share_causes, share_of
from controlplane.api.kinds.templates import (
    TEMPLATE_COLUMNS,
    TEMPLATE_PATH,
    Fields,
    labels_of_template,
    lasting_causes,
    template_causes,
)
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, annotations_of, meta, owner_of
from netplane.kube.resources import CONTROLLERREVISIONS, DAEMONSETS

ON_DELETE = "OnDelete"
REVISIONS = 10
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
DAEMONSET = shape_of(DAEMONSETS)
CONTROLLERREVISION = shape_of(CONTROLLERREVISIONS)


def _default(daemonset: Object) -> None:
    spec = daemonset.setdefault("spec", {})
    if spec.get("template") is not None:
        default_template(spec["template"])
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = ROLLING
    if strategy["type"] == ROLLING:
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", REVISIONS)


_new, _newer = with_generation()


def _create(daemonset: Object) -> None:
    _new(daemonset)
    _count(daemonset, 1)


def _update(new: Object, old: Object) -> None:
    _newer(new, old)
    counted = annotations_of(old).get(TEMPLATE_GENERATION, "")
    before, after = ((obj.get("spec") or {}).get("template") for obj in (old, new))
    _count(new, (int(counted) if counted.isdigit() else 1) + (before != after))


def _count(daemonset: Object, generation: int) -> None:
    """How many templates there have been is the server's to say, whatever a writer sends."""
    metadata = meta(daemonset)
    metadata["annotations"] = {**(metadata.get("annotations") or {}), TEMPLATE_GENERATION: str(generation)}


def _causes(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec") or {}
    template, selector = spec.get("template") or {}, spec.get("selector")
    found = _selector_causes(selector, labels_of_template(spec))
    found += template_causes(template) + lasting_causes(template, "DaemonSet")
    found += [
        causes.invalid(f"spec.{field}", spec[field], NEGATIVE)
        for field in ("minReadySeconds", "revisionHistoryLimit")
        if (spec.get(field) or 0) < 0
    ]
    found += _strategy_causes(spec.get("updateStrategy") or {})
    if old is not None and (old.get("spec") or {}).get("selector") != selector:
        found.append(causes.invalid("spec.selector", selector, causes.IMMUTABLE))
    return found


def _selector_causes(selector: Fields | None, labels: Mapping[str, str]) -> list[Cause]:
    found = selector_causes(selector or {}, "spec.selector")
    if found:
        return found
    if selector is None or not selector_matches(selector, labels):
        detail = "`selector` does not match template `labels`"
        found.append(causes.invalid(f"{TEMPLATE_PATH}.metadata.labels", labels, detail))
    if selector is not None and not (selector.get("matchLabels") or selector.get("matchExpressions")):
        found.append(causes.invalid("spec.selector", selector, "empty selector is invalid for daemonset"))
    return found


def _strategy_causes(strategy: Fields) -> list[Cause]:
    kind, at = strategy.get("type") or "", "spec.updateStrategy"
    if kind == ON_DELETE:
        return []
    if kind != ROLLING:
        return [causes.not_supported(at, kind, (ON_DELETE, ROLLING))]
    rolling = strategy.get("rollingUpdate")
    if rolling is None:
        return [causes.required(f"{at}.rollingUpdate")]
    unavailable, surge = rolling.get("maxUnavailable", 1), rolling.get("maxSurge", 0)
    at = f"{at}.rollingUpdate"
    found = share_causes(unavailable, f"{at}.maxUnavailable") + share_causes(surge, f"{at}.maxSurge")
    if found:
        return found
    if share_of(unavailable) and share_of(surge):
        found.append(
            causes.invalid(f"{at}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")
        )
    if not share_of(unavailable) and not share_of(surge):
        found.append(causes.required(f"{at}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    for field, value in (("maxUnavailable", unavailable), ("maxSurge", surge)):
        if isinstance(value, str) and share_of(value) > 100:
            found.append(causes.invalid(f"{at}.{field}", value, "must not be greater than 100%"))
    return found


def _no_defaults(_revision: Object) -> None:
    """A ControllerRevision has no defaults."""


def _revision_causes(new: Object, old: Object | None) -> list[Cause]:
    revision, found = new.get("revision") or 0, []
    if revision < 0:
        found.append(causes.invalid("revision", revision, NEGATIVE))
    if new.get("data") is None:
        found.append(causes.required("data", "data is mandatory"))
    if old is not None and new.get("data") != old.get("data"):
        found.append(causes.invalid("data", new.get("data"), causes.IMMUTABLE))
    return found


def _status(field: str) -> Callable[[Object], object]:
    return lambda daemonset: (daemonset.get("status") or {}).get(field) or 0


def _node_selector(daemonset: Object) -> str:
    template = (daemonset.get("spec") or {}).get("template") or {}
    return labels_text((template.get("spec") or {}).get("nodeSelector"))


def _controller(revision: Object) -> str:
    """`daemonset.apps/NAME`: whose revision it is."""
    owner = owner_of(revision)
    if owner is None:
        return NONE
    group = str(owner.get("apiVersion") or "").rpartition("/")[0]
    kind = str(owner.get("kind") or "").lower()
    return f"{kind}.{group}/{owner.get('name')}" if group else f"{kind}/{owner.get('name')}"


_prepare_create, _prepare_update = preparing(DAEMONSET, _create, _update)

DAEMONSET_KIND = Kind(
    resource=DAEMONSETS,
    default=defaulting(DAEMONSET, _default),
    validate=validating(DAEMONSETS, DAEMONSET, _causes),
    columns=(
        NAME,
        Column("Desired", "integer", _status("desiredNumberScheduled")),
        Column("Current", "integer", _status("currentNumberScheduled")),
        Column("Ready", "integer", _status("numberReady")),
        Column("Up-to-date", "integer", _status("updatedNumberScheduled")),
        Column("Available", "integer", _status("numberAvailable")),
        Column("Node Selector", "string", _node_selector),
        AGE,
        *TEMPLATE_COLUMNS,
    ),
    fields=name_fields,
    subresources=frozenset({"status"}),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    validate_status=validating_status(DAEMONSET),
    warnings=template_warnings,
)

CONTROLLERREVISION_KIND = Kind(
    resource=CONTROLLERREVISIONS,
    default=defaulting(CONTROLLERREVISION, _no_defaults),
    validate=validating(CONTROLLERREVISIONS, CONTROLLERREVISION, _revision_causes),
    columns=(
        NAME,
        Column("Controller", "string", _controller),
        Column("Revision", "string", lambda revision: revision.get("revision") or 0),
        AGE,
    ),
    fields=name_fields,
)
