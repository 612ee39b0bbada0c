"""Facts about a pod that several controllers must read the same way."""

from datetime import datetime
from typing import Any

from netplane.kube.objects import Object, condition, is_deleting, is_true, labels_of, meta, parse_time

RUNNING_ORDER = {"Pending": 0, "Unknown": 1, "Running": 2}


def spec_of(obj: Object) -> dict[str, Any]:
    """``spec``, empty when absent."""
    return obj.get("spec") or {}


def status_of(obj: Object) -> dict[str, Any]:
    """``status``, empty when absent."""
    return obj.get("status") or {}


def phase_of(pod: Object) -> str:
    """``status.phase``; a pod without one is Pending."""
    return str(status_of(pod).get("phase") or "Pending")


def is_terminal(pod: Object) -> bool:
    """Whether its containers have stopped for good."""
    return phase_of(pod) in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Whether it counts as a replica: neither finished nor being deleted."""
    return not is_terminal(pod) and not is_deleting(pod)


def is_ready(pod: Object) -> bool:
    """Its Ready condition."""
    return is_true(pod, "Ready")


def node_of(pod: Object) -> str:
    """``spec.nodeName``, "" while unscheduled."""
    return str(spec_of(pod).get("nodeName") or "")


def moment(obj: Object, field: str) -> datetime | None:
    """A time in the metadata, such as ``creationTimestamp``; None when absent or unreadable."""
    return _parsed(meta(obj).get(field))


def ready_since(pod: Object) -> datetime | None:
    """When it became ready; None when it is not."""
    found = condition(pod, "Ready")
    if found is None or found.get("status") != "True":
        return None
    return _parsed(found.get("lastTransitionTime"))


def seconds_until_available(pod: Object, min_ready_seconds: int, now: datetime) -> float | None:
    """0 when available, what is left of ``minReadySeconds`` when ready, None when not ready."""
    if not is_ready(pod):
        return None
    since = ready_since(pod)
    if min_ready_seconds <= 0 or since is None:
        return 0.0
    return max(0.0, min_ready_seconds - (now - since).total_seconds())


def restarts_of(pod: Object) -> int:
    """The highest restart count among its containers."""
    return max(
        (int(c.get("restartCount") or 0) for c in status_of(pod).get("containerStatuses") or []), default=0
    )


def addresses_of(pod: Object) -> list[str]:
    """``status.podIPs``, or ``status.podIP`` where only that is written."""
    status = status_of(pod)
    listed = [str(entry["ip"]) for entry in status.get("podIPs") or [] if entry.get("ip")]
    return listed or ([str(status["podIP"])] if status.get("podIP") else [])


def matches_labels(pod: Object, wanted: dict[str, str]) -> bool:
    """Whether it carries all of these labels."""
    labels = labels_of(pod)
    return all(labels.get(key) == value for key, value in wanted.items())


def _parsed(text: object) -> datetime | None:
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None
