"""What is wrong with a pod, and what may not change once it is there.

Source: Kubernetes `pkg/apis/core/validation/validation.go` (ValidatePodSpec, ValidatePodUpdate).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.config_rules import volume_source_causes
from controlplane.api.kinds.container_rules import (
    NEGATIVE,
    Fields,
    container_causes,
    host_port_causes,
)
from controlplane.api.kinds.metadata import label_causes
from controlplane.api.kinds.placement_rules import placement_causes
from controlplane.api.kinds.security_rules import pod_security_causes
from controlplane.api.schema.published import struct
from netplane.kube.errors import Cause
from netplane.kube.objects import Object

RESTART_POLICIES = ("Always", "Never", "OnFailure")
VOLUME_SOURCES = tuple(field for field in struct("core.v1.Volume").fields if field != "name")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_MUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


_NOT_A_SIDECAR = "may not be set for init containers without restartPolicy=Always"
MOST_NAMESERVERS = 3


def pod_causes(new: Object, old: Object | None) -> list[Cause]:
    """Everything wrong with a Pod, whose types are right, and with changing `old` to it."""
    spec = new.get("spec") or {}
    found = pod_spec_causes(spec, "spec")
    if old is not None:
        found += _update_causes(spec, old.get("spec") or {})
    elif spec.get("ephemeralContainers"):
        found.append(causes.forbidden("spec.ephemeralContainers", "cannot be set on create"))
    return found


def pod_spec_causes(spec: Fields, path: str) -> list[Cause]:
    """Everything wrong with a pod's spec, defaults filled."""
    found, volumes = _volume_causes(spec.get("volumes") or [], f"{path}.volumes")
    found += _containers_causes(spec, path, volumes)
    found += _choice(spec, "restartPolicy", RESTART_POLICIES, path)
    found += _choice(spec, "dnsPolicy", DNS_POLICIES, path)
    found += _dns_causes(spec, path)
    found += label_causes(spec.get("nodeSelector") or {}, f"{path}.nodeSelector")
    found += _named(spec, path)
    found += _time_causes(spec, path)
    for index, toleration in enumerate(spec.get("tolerations") or []):
        found += _toleration_causes(toleration, f"{path}.tolerations[{index}]")
    found += _alias_causes(spec.get("hostAliases") or [], f"{path}.hostAliases")
    found += placement_causes(spec, path)
    found += pod_security_causes(spec.get("securityContext") or {}, f"{path}.securityContext")
    return found


def _alias_causes(aliases: Iterable[Fields], path: str) -> list[Cause]:
    found: list[Cause] = []
    for index, alias in enumerate(aliases):
        at, address = f"{path}[{index}]", alias.get("ip") or ""
        if wrong := names.ip_address(address):
            found.append(causes.invalid(f"{at}.ip", address, wrong))
        found += [
            causes.invalid(f"{at}.hostnames", name, wrong)
            for name in alias.get("hostnames") or []
            if (wrong := names.dns_subdomain(name))
        ]
    return found


def _containers_causes(spec: Fields, path: str, volumes: frozenset[str]) -> list[Cause]:
    containers = spec.get("containers") or []
    found: list[Cause] = [] if containers else [causes.required(f"{path}.containers")]
    seen: set[str] = set()
    for field in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(field) or []):
            at = f"{path}.{field}[{index}]"
            found += container_causes(container, at, volumes)
            name = container.get("name") or ""
            if name and name in seen:
                found.append(causes.duplicate(f"{at}.name", name))
            seen.add(name)
            restart = container.get("restartPolicy")
            if restart and field == "containers":
                found.append(
                    causes.forbidden(f"{at}.restartPolicy", "may not be set for non-init containers")
                )
            elif restart and restart != "Always":
                found.append(causes.not_supported(f"{at}.restartPolicy", restart, ("Always",)))
            if field == "initContainers" and restart != "Always":
                found += [
                    causes.forbidden(f"{at}.{part}", _NOT_A_SIDECAR)
                    for part in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe")
                    if container.get(part) is not None
                ]
    found += host_port_causes(containers, f"{path}.containers")
    if spec.get("hostNetwork"):
        found += _host_network_causes(containers, f"{path}.containers")
    return found


def _host_network_causes(containers: Iterable[Fields], path: str) -> list[Cause]:
    return [
        causes.invalid(
            f"{path}[{index}].ports[{number}].hostPort",
            port.get("hostPort"),
            "must match `containerPort` when `hostNetwork` is true",
        )
        for index, container in enumerate(containers)
        for number, port in enumerate(container.get("ports") or [])
        if port.get("hostPort") and port.get("hostPort") != port.get("containerPort")
    ]


def _choice(spec: Fields, field: str, supported: Iterable[str], path: str) -> list[Cause]:
    value = spec.get(field) or ""
    if not value:
        return [causes.required(f"{path}.{field}")]
    return [] if value in supported else [causes.not_supported(f"{path}.{field}", value, supported)]


def _volume_causes(volumes: Iterable[Fields], path: str) -> tuple[list[Cause], frozenset[str]]:
    found: list[Cause] = []
    seen: set[str] = set()
    for index, volume in enumerate(volumes):
        at = f"{path}[{index}]"
        name = volume.get("name") or ""
        if not name:
            found.append(causes.required(f"{at}.name"))
        elif wrong := names.dns_label(name):
            found.append(causes.invalid(f"{at}.name", name, wrong))
        elif name in seen:
            found.append(causes.duplicate(f"{at}.name", name))
        seen.add(name)
        given = [source for source in VOLUME_SOURCES if volume.get(source) is not None]
        if not given:
            found.append(causes.required(at, "must specify a volume type"))
        found += [
            causes.forbidden(f"{at}.{source}", "may not specify more than 1 volume type")
            for source in given[1:]
        ]
        found += volume_source_causes(volume, at)
        host_path = volume.get("hostPath")
        if host_path is not None and not host_path.get("path"):
            found.append(causes.required(f"{at}.hostPath.path"))
    return found, frozenset(seen)


def _dns_causes(spec: Fields, path: str) -> list[Cause]:
    config = spec.get("dnsConfig") or {}
    at = f"{path}.dnsConfig.nameservers"
    servers = config.get("nameservers") or []
    found = [
        causes.invalid(f"{at}[{index}]", server, wrong)
        for index, server in enumerate(servers)
        if (wrong := names.ip_address(server))
    ]
    if len(servers) > MOST_NAMESERVERS:
        detail = f"must not have more than {MOST_NAMESERVERS} nameservers"
        found.append(causes.invalid(at, servers, detail))
    found += [
        causes.required(f"{path}.dnsConfig.options[{index}]", "must not be empty")
        for index, option in enumerate(config.get("options") or [])
        if not option.get("name")
    ]
    if spec.get("dnsPolicy") == "None" and not servers:
        found.append(
            causes.required(at, 'must provide at least one DNS nameserver when `dnsPolicy` is "None"')
        )
    return found


def _named(spec: Fields, path: str) -> list[Cause]:
    """Fields that hold a name: of the pod's host, its subdomain, its node, its account."""
    checks: Mapping[str, names.Check] = {
        "hostname": names.dns_label,
        "subdomain": names.dns_label,
        "nodeName": names.dns_subdomain,
        "serviceAccountName": names.dns_subdomain,
    }
    return [
        causes.invalid(f"{path}.{field}", spec[field], wrong)
        for field, check in checks.items()
        if spec.get(field) and (wrong := check(spec[field]))
    ]


def _time_causes(spec: Fields, path: str) -> list[Cause]:
    found = []
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is None:
        found.append(causes.required(f"{path}.terminationGracePeriodSeconds"))
    elif grace < 0:
        found.append(causes.invalid(f"{path}.terminationGracePeriodSeconds", grace, NEGATIVE))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline < 2**31:
        detail = "must be between 1 and 2147483647, inclusive"
        found.append(causes.invalid(f"{path}.activeDeadlineSeconds", deadline, detail))
    return found


def _toleration_causes(toleration: Fields, path: str) -> list[Cause]:
    found = []
    key, operator = toleration.get("key") or "", toleration.get("operator") or ""
    value, effect = toleration.get("value") or "", toleration.get("effect") or ""
    if key and (wrong := names.qualified_name(key)):
        found.append(causes.invalid(f"{path}.key", key, wrong))
    if not key and operator != "Exists":
        detail = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        found.append(causes.invalid(f"{path}.operator", operator, detail))
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        found.append(causes.invalid(f"{path}.effect", effect, detail))
    if operator in ("", "Equal"):
        if wrong := names.label_value(value):
            found.append(causes.invalid(f"{path}.operator", value, wrong))
    elif operator == "Exists":
        if value:
            detail = "value must be empty when `operator` is 'Exists'"
            found.append(causes.invalid(f"{path}.operator", toleration, detail))
    else:
        found.append(causes.not_supported(f"{path}.operator", operator, ("Equal", "Exists")))
    if effect and effect not in EFFECTS:
        found.append(causes.not_supported(f"{path}.effect", effect, EFFECTS))
    return found


def _update_causes(new: Fields, old: Fields) -> list[Cause]:
    for field in ("containers", "initContainers"):
        if len(new.get(field) or []) != len(old.get(field) or []):
            return [causes.forbidden(f"spec.{field}", "pod updates may not add or remove containers")]
    found = _deadline_update(new, old)
    if not _only_added(new.get("tolerations") or [], old.get("tolerations") or []):
        text = "existing toleration can not be modified except its tolerationSeconds"
        found.append(causes.forbidden("spec.tolerations", text))
    fixed_new, fixed_old = _fixed(new), _fixed(old)
    changed = sorted(
        field for field in {*fixed_new, *fixed_old} if fixed_new.get(field) != fixed_old.get(field)
    )
    if changed:
        found.append(causes.forbidden("spec", f"{_MUTABLE}; changed: {', '.join(changed)}"))
    return found


def _only_added(new: Iterable[Fields], old: Iterable[Fields]) -> bool:
    """Whether every toleration is still there, for whatever time."""

    def lasting(tolerations: Iterable[Fields]) -> list[Fields]:
        return [{k: v for k, v in each.items() if k != "tolerationSeconds"} for each in tolerations]

    kept = lasting(new)
    return all(toleration in kept for toleration in lasting(old))


def _deadline_update(new: Fields, old: Fields) -> list[Cause]:
    before, after = old.get("activeDeadlineSeconds"), new.get("activeDeadlineSeconds")
    if before is None or before == after:
        return []
    if after is None:
        detail = "must not update from a positive integer to nil value"
        return [causes.invalid("spec.activeDeadlineSeconds", None, detail)]
    if after > before:
        detail = "must be less than or equal to previous value"
        return [causes.invalid("spec.activeDeadlineSeconds", after, detail)]
    return []


def _fixed(spec: Fields) -> dict[str, Any]:
    """The part of a pod's spec that never changes."""
    mutable = ("activeDeadlineSeconds", "tolerations", "containers", "initContainers")
    fixed = {field: value for field, value in spec.items() if field not in mutable}
    for field in ("containers", "initContainers"):
        containers = spec.get(field) or []
        fixed[field] = [{k: v for k, v in container.items() if k != "image"} for container in containers]
    return fixed
