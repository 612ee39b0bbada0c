"""Node. A kubelet creates its Node with the status in it, so a create keeps the status."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.container_rules import NEGATIVE
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.metadata import (
    defaulting,
    keep_status,
    preparing,
    validating,
)
from controlplane.api.kinds.printing import AGE, NAME, NONE, UNKNOWN, text
from controlplane.api.kinds.shapes import (
    type_errors,
)
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object, condition, labels_of, name_of
from netplane.kube.quantity import parse_quantity
from netplane.kube.resources import NODES

ROLE_PREFIX = "node-role.kubernetes.io/"
ROLE_LABEL = "kubernetes.io/role"
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")

NODE = shape_of(NODES)


def _default(node: Object) -> None:
    """`podCIDR` is the first of `podCIDRs`; what a node has, it can give, unless it says otherwise."""
    spec = node.setdefault("spec", {})
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    elif spec.get("podCIDRs") and not spec.get("podCIDR"):
        spec["podCIDR"] = spec["podCIDRs"][0]
    status = node.setdefault("status", {})
    if status.get("capacity") and status.get("allocatable") is None:
        status["allocatable"] = dict(status["capacity"])


def _keep_created(_node: Object) -> None:
    """Nothing to take away from a new node."""


def _prepare_status(new: Object, old: Object) -> None:
    """A kubelet also writes its labels and annotations through the status."""
    if "spec" in old:
        new["spec"] = old["spec"]
    else:
        new.pop("spec", None)


def _causes(new: Object, old: Object | None) -> list[Cause]:
    spec = new.get("spec") or {}
    found = _network_causes(spec.get("podCIDRs") or [], spec.get("podCIDR") or "")
    found += _taint_causes(spec.get("taints") or [])
    status = new.get("status") or {}
    for side in ("capacity", "allocatable"):
        found += [
            causes.invalid(f"status.{side}[{name}]", str(amount), NEGATIVE)
            for name, amount in (status.get(side) or {}).items()
            if parse_quantity(amount) < 0
        ]
    if old is not None:
        found += _update_causes(spec, old.get("spec") or {})
    return found


def _network_causes(networks: list[str], first: str) -> list[Cause]:
    found = [
        causes.invalid(f"spec.podCIDRs[{index}]", network, wrong)
        for index, network in enumerate(networks)
        if (wrong := names.ip_network(network))
    ]
    if found:
        return found
    if networks and networks[0] != first:
        detail = "must be the same as the first of `podCIDRs`"
        found.append(causes.invalid("spec.podCIDR", first, detail))
    versions = [ipaddress.ip_network(network, strict=False).version for network in networks]
    if len(versions) > 2 or len(set(versions)) < len(versions):
        detail = "may specify no more than one CIDR for each IP family"
        found.append(causes.invalid("spec.podCIDRs", networks, detail))
    return found


def _taint_causes(taints: list[dict[str, Any]]) -> list[Cause]:
    found: list[Cause] = []
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(taints):
        at = f"spec.taints[{index}]"
        key, value, effect = taint.get("key") or "", taint.get("value") or "", taint.get("effect") or ""
        if wrong := names.qualified_name(key):
            found.append(causes.invalid(f"{at}.key", key, wrong))
        if wrong := names.label_value(value):
            found.append(causes.invalid(f"{at}.value", value, wrong))
        if not effect:
            found.append(causes.required(f"{at}.effect"))
        elif effect not in EFFECTS:
            found.append(causes.not_supported(f"{at}.effect", effect, EFFECTS))
        if (key, effect) in seen:
            found.append(causes.duplicate(at, f"{key}:{effect}"))
        seen.add((key, effect))
    return found


def _update_causes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Cause]:
    """A node's addresses for pods are given once: leases and routes hang on them."""
    found = []
    if old.get("podCIDRs") and new.get("podCIDRs") != old["podCIDRs"]:
        detail = 'node updates may not change podCIDR except from "" to valid'
        found.append(causes.forbidden("spec.podCIDRs", detail))
    if old.get("providerID") and new.get("providerID") != old["providerID"]:
        detail = 'node updates may not change providerID except from "" to valid'
        found.append(causes.forbidden("spec.providerID", detail))
    return found


def _status_causes(new: Object, _old: Object) -> list[Cause]:
    found = type_errors(NODE, new)
    if found:
        return found
    addresses = (new.get("status") or {}).get("addresses") or []
    seen: set[tuple[str, str]] = set()
    for index, entry in enumerate(addresses):
        key = (entry.get("type") or "", entry.get("address") or "")
        if key in seen:
            found.append(causes.duplicate(f"status.addresses[{index}]", key[1]))
        seen.add(key)
    return found


def _state(node: Object) -> str:
    ready = condition(node, "Ready")
    words = ["Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"]
    if (node.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def _roles(node: Object) -> str:
    roles = set()
    for label, value in labels_of(node).items():
        if label.startswith(ROLE_PREFIX) and label != ROLE_PREFIX:
            roles.add(label.removeprefix(ROLE_PREFIX))
        elif label == ROLE_LABEL and value:
            roles.add(value)
    return ",".join(sorted(roles)) or NONE


def _address(kind: str) -> Callable[[Object], object]:
    def cell(node: Object) -> str:
        entries = (node.get("status") or {}).get("addresses") or []
        return next((str(entry.get("address")) for entry in entries if entry.get("type") == kind), NONE)

    return cell


def _info(field: str, empty: str = UNKNOWN) -> Callable[[Object], object]:
    return lambda node: text(((node.get("status") or {}).get("nodeInfo") or {}).get(field), empty)


def _fields(node: Object) -> Mapping[str, str]:
    unschedulable = (node.get("spec") or {}).get("unschedulable")
    return {"metadata.name": name_of(node), "spec.unschedulable": "true" if unschedulable else "false"}


_prepare_create, _prepare_update = preparing(NODE, _keep_created, keep_status)

KIND = Kind(
    resource=NODES,
    default=defaulting(NODE, _default),
    validate=validating(NODES, NODE, _causes),
    columns=(
        NAME,
        Column("Status", "string", _state, description="The status of the node"),
        Column("Roles", "string", _roles, description="The roles of the node"),
        AGE,
        Column("Version", "string", _info("kubeletVersion", ""), description="The kubelet's version."),
        Column("Internal-IP", "string", _address("InternalIP"), 1),
        Column("External-IP", "string", _address("ExternalIP"), 1),
        Column("OS-Image", "string", _info("osImage"), 1),
        Column("Kernel-Version", "string", _info("kernelVersion"), 1),
        Column("Container-Runtime", "string", _info("containerRuntimeVersion"), 1),
    ),
    fields=_fields,
    subresources=frozenset({"status"}),
    prepare_create=_prepare_create,
    prepare_update=_prepare_update,
    prepare_status=_prepare_status,
    validate_status=_status_causes,
)
