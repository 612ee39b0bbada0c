"""The row of a Job in `kubectl get`. Source: Kubernetes `pkg/printers/internalversion/printers.go` (printJob)."""

from __future__ import annotations

from controlplane.api.kinds.kind import Column, Since
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.kinds.templates import TEMPLATE_COLUMNS
from netplane.kube.objects import Object, is_deleting, is_true


def _state(job: Object) -> str:
    for condition, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if is_true(job, condition):
            return word
    if is_deleting(job):
        return "Terminating"
    for condition in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if is_true(job, condition):
            return condition
    return "Running"


def _completions(job: Object) -> str:
    spec, succeeded = job.get("spec") or {}, (job.get("status") or {}).get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _duration(job: Object) -> object:
    status = job.get("status") or {}
    if not status.get("startTime"):
        return ""
    return Since(status["startTime"], "{}", status.get("completionTime") or "")


COLUMNS = (
    NAME,
    Column("Status", "string", _state, description="Status of the job."),
    Column("Completions", "string", _completions),
    Column("Duration", "string", _duration, description="Time required to complete the job."),
    AGE,
    *TEMPLATE_COLUMNS,
)
