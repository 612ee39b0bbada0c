"""Probes without I/O: what a pod's spec asks for, and what a row of answers means.

Source: Kubernetes documentation, "Configure Liveness, Readiness and Startup Probes"; defaults as kube-apiserver sets
them. Time is a number that the caller passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from netplane.kube.objects import Object


class Purpose(StrEnum):
    """What follows from a probe's verdict."""

    READINESS = "Readiness"  # failing: no traffic
    LIVENESS = "Liveness"  # failing: the container is restarted
    STARTUP = "Startup"  # until it succeeds the others wait; failing: the container is restarted


@dataclass(frozen=True, slots=True)
class HttpGet:
    """``host`` is "" for the pod's own address."""

    scheme: str
    host: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TcpConnect:
    """``host`` is "" for the pod's own address."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Exec:
    """A command within the container; exit status 0 is success."""

    argv: tuple[str, ...]


Check = HttpGet | TcpConnect | Exec


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of one container; all times in seconds."""

    purpose: Purpose
    check: Check
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3
    grace: int | None = None  # of the kill that follows; the pod's when None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answers so far. ``healthy`` turns only after a threshold of equal answers in a row."""

    healthy: bool
    streak: int = 0
    streak_ok: bool = True

    @classmethod
    def initial(cls, purpose: Purpose) -> "Verdict":
        """Alive until shown otherwise; not ready and not started until shown so."""
        return cls(healthy=purpose is Purpose.LIVENESS)

    def observe(self, probe: Probe, *, ok: bool) -> "Verdict":
        """One more answer."""
        streak = self.streak + 1 if self.streak and self.streak_ok == ok else 1
        threshold = probe.success_threshold if ok else probe.failure_threshold
        return Verdict(ok if streak >= threshold else self.healthy, streak, ok)

    def condemned(self, probe: Probe) -> bool:
        """Whether the container is to be killed for it."""
        failed = not self.streak_ok and self.streak >= probe.failure_threshold
        return probe.purpose is not Purpose.READINESS and failed


def probes_of(container: Object) -> list[Probe]:
    """The container's probes. Raises ValueError naming the field that cannot be used."""
    found: list[Probe] = []
    for purpose in Purpose:
        key = f"{purpose.value.lower()}Probe"
        raw = container.get(key)
        if raw:
            try:
                found.append(_probe(purpose, raw, container))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{key}: {error}") from None
    return found


def _probe(purpose: Purpose, raw: Mapping[str, Any], container: Object) -> Probe:
    grace = raw.get("terminationGracePeriodSeconds")
    return Probe(
        purpose,
        _check(raw, container),
        initial_delay=float(raw.get("initialDelaySeconds") or 0),
        period=float(raw.get("periodSeconds") or 10),
        timeout=float(raw.get("timeoutSeconds") or 1),
        success_threshold=int(raw.get("successThreshold") or 1),
        failure_threshold=int(raw.get("failureThreshold") or 3),
        grace=int(grace) if grace is not None else None,
    )


def _check(raw: Mapping[str, Any], container: Object) -> Check:
    if http := raw.get("httpGet"):
        headers = tuple((str(h["name"]), str(h.get("value") or "")) for h in http.get("httpHeaders") or [])
        path = str(http.get("path") or "/")
        return HttpGet(
            str(http.get("scheme") or "HTTP").lower(),
            str(http.get("host") or ""),
            _port(http["port"], container),
            path if path.startswith("/") else f"/{path}",
            headers,
        )
    if tcp := raw.get("tcpSocket"):
        return TcpConnect(str(tcp.get("host") or ""), _port(tcp["port"], container))
    if command := (raw.get("exec") or {}).get("command"):
        return Exec(tuple(str(part) for part in command))
    raise ValueError("must have one of httpGet, tcpSocket, exec")


def _port(value: int | str, container: Object) -> int:
    """A number, or the name of one of the container's ports."""
    if isinstance(value, int):
        return value
    if value.isdigit():
        return int(value)
    for port in container.get("ports") or []:
        if port.get("name") == value:
            return int(port["containerPort"])
    raise ValueError(f"port {value!r} is not a port of container {container.get('name')}")
