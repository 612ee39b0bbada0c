"""What the process runtime does not serve, found before anything is started: never a silent subset."""

from collections.abc import Iterator, Mapping
from typing import Any

from netplane.kube.objects import Object
from netplane.node import volumes

# Pod fields that would change what runs, and that this runtime has no way to honour.
POD_FIELDS = ("ephemeralContainers", "shareProcessNamespace", "hostPID", "hostIPC", "runtimeClassName")
CONTAINER_FIELDS = ("volumeDevices", "lifecycle")
VALUE_SOURCES = ("fieldRef", "configMapKeyRef", "secretKeyRef")
SECURITY_FIELDS = (
    "readOnlyRootFilesystem",
    "capabilities",
    "seLinuxOptions",
    "runAsNonRoot",
    "windowsOptions",
)
HINT = "is not served by the process runtime"
TOKEN_VOLUME = "kube-api-access-"  # what a real API server adds for its service account tokens


def refusals(pod: Object) -> list[str]:
    """Each a sentence that begins with the field's path; none when the pod can run."""
    return list(_pod(pod.get("spec") or {}))


def _pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for field in POD_FIELDS:
        if spec.get(field):
            yield f"spec.{field} {HINT}"
    for volume in volumes.refusals({"spec": spec}):
        hint = "; set automountServiceAccountToken: false" if f"({TOKEN_VOLUME}" in volume else ""
        yield f"{volume} {HINT}{hint}"
    for kind in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(kind) or []):
            yield from _container(f"spec.{kind}[{index}]", container)
    if spec.get("initContainers"):
        yield f"spec.initContainers {HINT}"


def _container(where: str, container: Mapping[str, Any]) -> Iterator[str]:
    for field in CONTAINER_FIELDS:
        if container.get(field):
            yield f"{where}.{field} {HINT}"
    security = container.get("securityContext") or {}
    for field in SECURITY_FIELDS:
        if security.get(field):
            yield f"{where}.securityContext.{field} {HINT}"
    for index, variable in enumerate(container.get("env") or []):
        source = variable.get("valueFrom")
        if source is not None and not any(kind in source for kind in VALUE_SOURCES):
            yield f"{where}.env[{index}].valueFrom.{next(iter(source), '')} {HINT}"
    for kind in ("readinessProbe", "livenessProbe", "startupProbe"):
        if "grpc" in (container.get(kind) or {}):
            yield f"{where}.{kind}.grpc {HINT}"
