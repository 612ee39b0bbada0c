"""What kube-apiserver fills into a pod: every kubelet, ours too, takes these fields for granted.

Source: Kubernetes `pkg/apis/core/v1/defaults.go`. Each function expects the published types, changes its
argument in place, and changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from controlplane.api.kinds.shapes import amount
from netplane.kube.objects import Object

FILE_MODE = 0o644
TOKEN_SECONDS = 3600
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_WITH_MODE = ("secret", "configMap", "projected", "downwardAPI")


def default_pod(pod: Object) -> None:
    """The defaults of a Pod: a template's, and those of a pod alone."""
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    for container in _containers(spec):
        _requests_from_limits(container.get("resources") or {})


def default_template(template: Object) -> None:
    """The defaults of a pod template."""
    default_pod_spec(template.setdefault("spec", {}))


def default_pod_spec(spec: dict[str, Any]) -> None:
    """The defaults that pods and pod templates share."""
    _fill(spec, "dnsPolicy", "ClusterFirst")
    _fill(spec, "restartPolicy", "Always")
    _fill(spec, "schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", 30)
    _same_account(spec)
    for container in _containers(spec):
        _default_container(container)
        if spec.get("hostNetwork"):
            _host_ports(container)
    for volume in spec.get("volumes") or []:
        _default_volume(volume)
    for container in spec.get("ephemeralContainers") or []:
        _default_container(container)


def _fill(fields: dict[str, Any], name: str, value: str) -> None:
    """A string is absent when it is missing or empty."""
    if not fields.get(name):
        fields[name] = value


def _containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def _same_account(spec: dict[str, Any]) -> None:
    """`serviceAccount` is the old name of `serviceAccountName`; both are kept equal."""
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account


def _default_container(container: dict[str, Any]) -> None:
    _fill(container, "imagePullPolicy", _pull_policy(container.get("image") or ""))
    _fill(container, "terminationMessagePath", "/dev/termination-log")
    _fill(container, "terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    for port in container.get("ports") or []:
        _fill(port, "protocol", "TCP")
    for variable in container.get("env") or []:
        _default_field_ref(variable.get("valueFrom"))
    for probe in PROBES:
        _default_probe(container.get(probe))
    lifecycle = container.get("lifecycle") or {}
    for event in ("postStart", "preStop"):
        _default_http_get((lifecycle.get(event) or {}).get("httpGet"))


def _pull_policy(image: str) -> str:
    """An image without a tag, or tagged latest, may change under its name; a digest may not."""
    if "@" in image:
        return "IfNotPresent"
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return "IfNotPresent" if colon and tag != "latest" else "Always"


def _default_field_ref(source: dict[str, Any] | None) -> None:
    reference = (source or {}).get("fieldRef")
    if reference is not None:
        _fill(reference, "apiVersion", "v1")


def _default_probe(probe: dict[str, Any] | None) -> None:
    if probe is None:
        return
    for name, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(name):
            probe[name] = value
    _default_http_get(probe.get("httpGet"))
    if probe.get("grpc") is not None:
        probe["grpc"].setdefault("service", "")


def _default_http_get(action: dict[str, Any] | None) -> None:
    if action is not None:
        _fill(action, "path", "/")
        _fill(action, "scheme", "HTTP")


def _host_ports(container: dict[str, Any]) -> None:
    """In the node's network a container's port is the node's port."""
    for port in container.get("ports") or []:
        if not port.get("hostPort") and port.get("containerPort"):
            port["hostPort"] = port["containerPort"]


def _default_volume(volume: dict[str, Any]) -> None:
    if not any(field != "name" for field in volume):
        volume["emptyDir"] = {}
    for source in _WITH_MODE:
        if volume.get(source) is not None:
            volume[source].setdefault("defaultMode", FILE_MODE)
    if volume.get("hostPath") is not None:
        volume["hostPath"].setdefault("type", "")
    _default_field_refs((volume.get("downwardAPI") or {}).get("items"))
    for projection in (volume.get("projected") or {}).get("sources") or []:
        _default_field_refs((projection.get("downwardAPI") or {}).get("items"))
        token = projection.get("serviceAccountToken")
        if token is not None:
            token.setdefault("expirationSeconds", TOKEN_SECONDS)


def _default_field_refs(items: Iterable[dict[str, Any]] | None) -> None:
    for item in items or ():
        _default_field_ref(item)


def _requests_from_limits(resources: dict[str, Any]) -> None:
    """Who says only how much a container may use, asks for that much."""
    limits = resources.get("limits") or {}
    if limits:
        requests = resources.setdefault("requests", {})
        for name, limit in limits.items():
            requests.setdefault(name, limit)


def qos_class(spec: Mapping[str, Any]) -> str:
    """`status.qosClass`: which pods the kernel gives up first.

    Source: Kubernetes `pkg/apis/core/v1/helper/qos/qos.go`. Zero amounts count as absent.
    """
    containers = _containers(spec)
    requests = [_compute(container, "requests") for container in containers]
    limits = [_compute(container, "limits") for container in containers]
    if not any(requests) and not any(limits):
        return "BestEffort"
    if all(
        len(limit) == 2 and request in ({}, limit) for request, limit in zip(requests, limits, strict=True)
    ):
        return "Guaranteed"
    return "Burstable"


def _compute(container: Mapping[str, Any], side: str) -> dict[str, Fraction]:
    amounts = (container.get("resources") or {}).get(side) or {}
    parsed = {name: amount(amounts[name]) for name in ("cpu", "memory") if name in amounts}
    return {name: parsed_amount for name, parsed_amount in parsed.items() if parsed_amount > 0}
