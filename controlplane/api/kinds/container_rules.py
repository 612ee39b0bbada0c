"""What is wrong with a container: names, ports, environment, resources, probes, mounts.

Source: Kubernetes `pkg/apis/core/validation/validation.go`. Every function expects the published types and
defaults filled, and returns causes whose fields start with `path`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.config_rules import env_from_causes, inner_path_causes, key_ref_causes
from controlplane.api.kinds.security_rules import container_security_causes
from controlplane.api.kinds.shapes import amount
from netplane.kube.errors import Cause

Fields = Mapping[str, Any]

PROTOCOLS = ("SCTP", "TCP", "UDP")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
MESSAGE_POLICIES = ("FallbackToLogsOnError", "File")
_PROBE_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_PROBE_NUMBERS = (
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
)
_HOOK_HANDLERS = ("exec", "httpGet", "tcpSocket", "sleep")
_VALUE_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef")
_POD_FIELDS = frozenset(
    {
        *("metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"),
        *("spec.nodeName", "spec.serviceAccountName"),
        *("status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"),
    }
)
_STANDARD_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})
NEGATIVE = "must be greater than or equal to 0"


def container_causes(container: Fields, path: str, volumes: frozenset[str]) -> list[Cause]:
    """Everything wrong with one container; `volumes` are the pod's volume names."""
    found = _name_causes(container.get("name") or "", f"{path}.name")
    image = container.get("image") or ""
    if not image:
        found.append(causes.required(f"{path}.image"))
    elif image != image.strip():
        found.append(causes.invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    found += _one_of(container, "imagePullPolicy", PULL_POLICIES, path)
    found += _one_of(container, "terminationMessagePolicy", MESSAGE_POLICIES, path)
    found += _port_causes(container.get("ports") or [], f"{path}.ports")
    found += _env_causes(container.get("env") or [], f"{path}.env")
    found += env_from_causes(container.get("envFrom") or [], f"{path}.envFrom")
    found += resource_causes(container.get("resources") or {}, f"{path}.resources")
    found += _mount_causes(container.get("volumeMounts") or [], f"{path}.volumeMounts", volumes)
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        found += _probe_causes(container.get(probe), f"{path}.{probe}", once=probe != "readinessProbe")
    found += container_security_causes(container.get("securityContext") or {}, f"{path}.securityContext")
    for event in ("postStart", "preStop"):
        hook = (container.get("lifecycle") or {}).get(event)
        if hook is not None:
            found += _handler_causes(hook, _HOOK_HANDLERS, f"{path}.lifecycle.{event}")
    return found


def _name_causes(name: str, path: str) -> list[Cause]:
    if not name:
        return [causes.required(path)]
    wrong = names.dns_label(name)
    return [causes.invalid(path, name, wrong)] if wrong else []


def _one_of(fields: Fields, field: str, supported: Iterable[str], path: str) -> list[Cause]:
    value = fields.get(field)
    if not value:
        return [causes.required(f"{path}.{field}")]
    return [] if value in supported else [causes.not_supported(f"{path}.{field}", value, supported)]


def _port_causes(ports: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at = f"{path}[{index}]"
        name = port.get("name") or ""
        if name:
            if wrong := names.port_name(name):
                found.append(causes.invalid(f"{at}.name", name, wrong))
            elif name in seen:
                found.append(causes.duplicate(f"{at}.name", name))
            seen.add(name)
        number = port.get("containerPort") or 0
        if not number:
            found.append(causes.required(f"{at}.containerPort"))
        elif wrong := names.port_number(number):
            found.append(causes.invalid(f"{at}.containerPort", number, wrong))
        host = port.get("hostPort") or 0
        if host and (wrong := names.port_number(host)):
            found.append(causes.invalid(f"{at}.hostPort", host, wrong))
        found += _one_of(port, "protocol", PROTOCOLS, at)
    return found


def host_port_causes(containers: Iterable[Fields], path: str) -> list[Cause]:
    """Two containers of a pod cannot have one port of the node."""
    found: list[Cause] = []
    taken: set[tuple[str, str, int]] = set()
    for index, container in enumerate(containers):
        for number, port in enumerate(container.get("ports") or []):
            host = port.get("hostPort") or 0
            key = (port.get("protocol") or "TCP", port.get("hostIP") or "", host)
            if host and key in taken:
                shown = f"{key[0]}/{key[1]}/{host}"
                found.append(causes.duplicate(f"{path}[{index}].ports[{number}].hostPort", shown))
            taken.add(key)
    return found


def _env_causes(variables: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    for index, variable in enumerate(variables):
        at = f"{path}[{index}]"
        name = variable.get("name") or ""
        if not name:
            found.append(causes.required(f"{at}.name"))
        elif wrong := names.environment_name(name):
            found.append(causes.invalid(f"{at}.name", name, wrong))
        found += _value_from_causes(variable, at)
    return found


def _value_from_causes(variable: Fields, path: str) -> list[Cause]:
    source = variable.get("valueFrom")
    if source is None:
        return []
    at = f"{path}.valueFrom"
    given = [field for field in _VALUE_SOURCES if source.get(field) is not None]
    if not given:
        detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        return [causes.invalid(at, "", detail)]
    if variable.get("value"):
        return [causes.invalid(at, "", "may not be specified when `value` is not empty")]
    if len(given) > 1:
        return [causes.invalid(at, "", "may not have more than one field specified at a time")]
    if given == ["fieldRef"]:
        return _field_ref_causes(source["fieldRef"], f"{at}.fieldRef")
    if given in (["configMapKeyRef"], ["secretKeyRef"]):
        return key_ref_causes(source[given[0]], f"{at}.{given[0]}")
    return []


def _field_ref_causes(reference: Fields, path: str) -> list[Cause]:
    field = reference.get("fieldPath") or ""
    if not field:
        return [causes.required(f"{path}.fieldPath")]
    if field in _POD_FIELDS or field.startswith(("metadata.labels['", "metadata.annotations['")):
        return []
    if field.split(".")[0] not in ("metadata", "spec", "status"):
        return [
            causes.invalid(
                f"{path}.fieldPath", field, "error converting fieldPath: field label not supported"
            )
        ]
    return [causes.not_supported(f"{path}.fieldPath", field, _POD_FIELDS)]


def resource_causes(resources: Fields, path: str) -> list[Cause]:
    """Amounts are not negative, have known names, and requests stay within limits."""
    found: list[Cause] = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for side, amounts in (("limits", limits), ("requests", requests)):
        for name, given in amounts.items():
            at = f"{path}.{side}[{name}]"
            found += _resource_name_causes(name, at)
            if amount(given) < 0:
                found.append(causes.invalid(at, str(given), NEGATIVE))
    for name, given in requests.items():
        if name in limits and amount(given) > amount(limits[name]):
            detail = f"must be less than or equal to {name} limit of {limits[name]}"
            found.append(causes.invalid(f"{path}.requests", str(given), detail))
    return found


def _resource_name_causes(name: str, path: str) -> list[Cause]:
    if wrong := names.qualified_name(name):
        return [causes.invalid(path, name, wrong)]
    if "/" not in name and name not in _STANDARD_RESOURCES and not name.startswith("hugepages-"):
        return [causes.invalid(path, name, "must be a standard resource for containers")]
    return []


def _mount_causes(mounts: Iterable[Fields], path: str, volumes: frozenset[str]) -> list[Cause]:
    found: list[Cause] = []
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        at = f"{path}[{index}]"
        name, where = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            found.append(causes.required(f"{at}.name"))
        elif name not in volumes:
            found.append(causes.not_found(f"{at}.name", name))
        if not where:
            found.append(causes.required(f"{at}.mountPath"))
        elif where in seen:
            found.append(causes.invalid(f"{at}.mountPath", where, "must be unique"))
        seen.add(where)
        if sub_path := mount.get("subPath") or "":
            found += inner_path_causes(sub_path, f"{at}.subPath")
    return found


def _probe_causes(probe: Fields | None, path: str, *, once: bool) -> list[Cause]:
    """`once`: liveness and startup probes count one success."""
    if probe is None:
        return []
    found = _handler_causes(probe, _PROBE_HANDLERS, path)
    found += [
        causes.invalid(f"{path}.{field}", probe[field], NEGATIVE)
        for field in _PROBE_NUMBERS
        if (probe.get(field) or 0) < 0
    ]
    if once and probe.get("successThreshold") != 1:
        found.append(
            causes.invalid(f"{path}.successThreshold", probe.get("successThreshold") or 0, "must be 1")
        )
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and not once:
        detail = "must not be set for readinessProbes"
        found.append(causes.invalid(f"{path}.terminationGracePeriodSeconds", grace, detail))
    elif grace is not None and grace <= 0:
        found.append(causes.invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0"))
    return found


def _handler_causes(action: Fields, handlers: Iterable[str], path: str) -> list[Cause]:
    given = [field for field in handlers if action.get(field) is not None]
    if not given:
        return [causes.required(path, "must specify a handler type")]
    found = [
        causes.forbidden(f"{path}.{field}", "may not specify more than 1 handler type") for field in given[1:]
    ]
    field = given[0]
    how, at = action[field], f"{path}.{field}"
    if field == "exec" and not how.get("command"):
        found.append(causes.required(f"{at}.command"))
    if field in ("httpGet", "tcpSocket"):
        found += _probe_port_causes(how.get("port"), f"{at}.port")
    if field == "grpc" and (wrong := names.port_number(how.get("port") or 0)):
        found.append(causes.invalid(f"{at}.port", how.get("port") or 0, wrong))
    if field == "httpGet" and how.get("scheme") not in ("HTTP", "HTTPS"):
        found.append(causes.not_supported(f"{at}.scheme", how.get("scheme"), ("HTTP", "HTTPS")))
    return found


def _probe_port_causes(port: int | str | None, path: str) -> list[Cause]:
    """A number, or the name of one of the container's ports."""
    if isinstance(port, str):
        wrong = names.port_name(port)
        return [causes.invalid(path, port, wrong)] if wrong else []
    wrong = names.port_number(port or 0)
    return [causes.invalid(path, port or 0, wrong)] if wrong else []
