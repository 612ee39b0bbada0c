"""Job: pods that are to end, and what may be said about how.

Source: Kubernetes `pkg/apis/batch/v1/defaults.go`, `pkg/apis/batch/validation/validation.go` and
`pkg/registry/batch/job/strategy.go`, which makes up the selector.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.api.kinds import causes
from controlplane.api.kinds.container_rules import NEGATIVE
from controlplane.api.kinds.job_printing import COLUMNS
from controlplane.api.kinds.kind import Kind
from controlplane.api.kinds.label_selector import selector_causes, selector_matches
from controlplane.api.kinds.metadata import (
    defaulting,
    preparing,
    validating,
    validating_status,
    with_generation,
)
from controlplane.api.kinds.placement_rules import template_warnings
from controlplane.api.kinds.pod_defaults import default_template
from controlplane.api.kinds.templates import TEMPLATE_PATH, Fields, labels_of_template, template_causes
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, name_of, namespace_of, uid_of
from netplane.kube.resources import JOBS

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
OLD_CONTROLLER_UID = "controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
OLD_JOB_NAME = "job-name"

INDEXED, NON_INDEXED = "Indexed", "NonIndexed"
BACKOFF_LIMIT = 6
PARALLELISM_MOST = 100_000
_NUMBERS = ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")
_REFUSED = ("podFailurePolicy", "backoffLimitPerIndex", "maxFailedIndexes", "successPolicy", "managedBy")

JOB = shape_of(JOBS)


def _default(job: Object) -> None:
    spec = job.setdefault("spec", {})
    if spec.get("template") is not None:
        default_template(spec["template"])
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", BACKOFF_LIMIT)
    if not spec.get("completionMode"):
        spec["completionMode"] = NON_INDEXED
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    if not spec.get("podReplacementPolicy"):
        spec["podReplacementPolicy"] = "TerminatingOrFailed"
    _labels_from_template(job)


def _labels_from_template(job: Object) -> None:
    """A Job without labels has its template's: kube-apiserver's defaults say so at each reading."""
    metadata, labels = job.get("metadata"), labels_of_template(job.get("spec") or {})
    if labels and isinstance(metadata, dict) and not metadata.get("labels"):
        metadata["labels"] = dict(labels)


def _generated(job: Object) -> dict[str, str]:
    uid, name = uid_of(job), name_of(job)
    return {CONTROLLER_UID: uid, JOB_NAME: name, OLD_CONTROLLER_UID: uid, OLD_JOB_NAME: name}


def _add_selector(job: Object) -> None:
    """Pods are known by the Job's uid, so that no two Jobs ever count the same pod."""
    spec = job.get("spec") or {}
    template = spec.get("template")
    if spec.get("manualSelector") or template is None:
        return
    labels = (template.get("metadata") or {}).get("labels") or {}
    template["metadata"] = {**(template.get("metadata") or {}), "labels": {**_generated(job), **labels}}
    selector = spec.setdefault("selector", {})
    selector["matchLabels"] = {CONTROLLER_UID: uid_of(job), **(selector.get("matchLabels") or {})}
    _labels_from_template(job)


def _causes(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec") or {}
    found = [] if spec.get("manualSelector") or old is not None else _generated_causes(new, spec)
    found += [
        causes.invalid(f"spec.{field}", spec[field], NEGATIVE)
        for field in _NUMBERS
        if (spec.get(field) or 0) < 0
    ]
    found += [
        causes.forbidden(f"spec.{field}", "netplane does not serve this field")
        for field in _REFUSED
        if spec.get(field) is not None
    ]
    found += _mode_causes(spec)
    found += _selector_causes(spec)
    found += _template_causes(spec.get("template") or {})
    return found if old is None else found + _update_causes(spec, old.get("spec") or {})


def _generated_causes(job: Object, spec: Fields) -> list[Cause]:
    """Who writes by hand what the server makes up must write the same."""
    labels = labels_of_template(spec)
    found = [
        causes.invalid(f"{TEMPLATE_PATH}.metadata.labels[{key}]", labels, f"must be '{value}'")
        for key, value in _generated(job).items()
        if labels and labels.get(key) != value
    ]
    selector = spec.get("selector")
    if selector is not None and selector != {"matchLabels": {CONTROLLER_UID: uid_of(job)}}:
        found.append(causes.invalid("spec.selector", selector, "`selector` not auto-generated"))
    return found


def _mode_causes(spec: Fields) -> list[Cause]:
    mode, found = spec.get("completionMode") or "", []
    if mode not in (INDEXED, NON_INDEXED):
        return [causes.not_supported("spec.completionMode", mode, (INDEXED, NON_INDEXED))]
    if mode == INDEXED:
        if spec.get("completions") is None:
            detail = "when completion mode is Indexed"
            found.append(causes.required("spec.completions", detail))
        if (spec.get("parallelism") or 0) > PARALLELISM_MOST:
            detail = f"must be less than or equal to {PARALLELISM_MOST} when completion mode is Indexed"
            found.append(causes.invalid("spec.parallelism", spec["parallelism"], detail))
    policy = spec.get("podReplacementPolicy") or ""
    if policy not in ("Failed", "TerminatingOrFailed"):
        supported = ("Failed", "TerminatingOrFailed")
        found.append(causes.not_supported("spec.podReplacementPolicy", policy, supported))
    return found


def _selector_causes(spec: Fields) -> list[Cause]:
    selector, labels = spec.get("selector"), labels_of_template(spec)
    if selector is None:
        return [causes.required("spec.selector")]
    found = selector_causes(selector, "spec.selector")
    if not found and not selector_matches(selector, labels):
        detail = "`selector` does not match template `labels`"
        found.append(causes.invalid(f"{TEMPLATE_PATH}.metadata.labels", labels, detail))
    return found


def _template_causes(template: Fields) -> list[Cause]:
    found = template_causes(template)
    if (template.get("spec") or {}).get("restartPolicy") in (None, "Always"):
        found.append(
            causes.required(f"{TEMPLATE_PATH}.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
        )
    return found


def _update_causes(new: Fields, old: Fields) -> list[Cause]:
    """An Indexed Job may grow and shrink, with completions and parallelism equal; all else that counts stays."""
    fixed = ["selector", "template", "completionMode"]
    elastic = new.get("completionMode") == INDEXED and new.get("completions") == new.get("parallelism")
    if not elastic:
        fixed.append("completions")
    return [
        causes.invalid(f"spec.{field}", new.get(field), causes.IMMUTABLE)
        for field in fixed
        if new.get(field) != old.get(field)
    ]


def _fields(job: Object) -> Mapping[str, str]:
    return {
        "metadata.name": name_of(job),
        "metadata.namespace": namespace_of(job),
        "status.successful": str((job.get("status") or {}).get("succeeded") or 0),
    }


_counted_create, _counted_update = with_generation()


def _create(job: Object) -> None:
    _counted_create(job)
    _add_selector(job)


_prepare_create, _prepare_update = preparing(JOB, _create, _counted_update)

KIND = Kind(
    resource=JOBS,
    default=defaulting(JOB, _default),
    validate=validating(JOBS, JOB, _causes),
    columns=COLUMNS,
    fields=_fields,
    subresources=frozenset({"status"}),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    validate_status=validating_status(JOB),
    warnings=template_warnings,
)
