"""How long a pod has left to end in peace: pure."""

from datetime import datetime

from netplane.kube.objects import Object, meta, parse_time

DEFAULT_GRACE = 30


def grace_of(pod: Object) -> float:
    """Seconds between SIGTERM and SIGKILL: the deletion's own, else the pod's."""
    deletion = meta(pod).get("deletionGracePeriodSeconds")
    stated = (pod.get("spec") or {}).get("terminationGracePeriodSeconds")
    for value in (deletion, stated):
        if value is not None:
            return max(float(value), 0.0)
    return float(DEFAULT_GRACE)


def grace_left(pod: Object, now: datetime) -> float:
    """What is left of it: `deletionTimestamp` is when the pod is due to be gone, also for an agent that was away.

    Never more than the whole grace, so that clocks that disagree do not stretch it.
    """
    grace = grace_of(pod)
    due = meta(pod).get("deletionTimestamp")
    if due is None:
        return grace
    try:
        return min(max((parse_time(str(due)) - now).total_seconds(), 0.0), grace)
    except ValueError:
        return grace
