"""NetworkPolicy: stored as kube-apiserver stores it.

Source: Kubernetes `pkg/apis/networking/{v1/defaults.go,validation/validation.go}`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.api.kinds import causes, names
from controlplane.api.kinds.container_rules import PROTOCOLS
from controlplane.api.kinds.kind import Column, Kind
from controlplane.api.kinds.label_selector import selector_causes, selector_text
from controlplane.api.kinds.metadata import defaulting, name_fields, validating, with_generation
from controlplane.api.kinds.printing import AGE, NAME
from controlplane.api.schema.published import shape_of
from netplane.kube.errors import Cause
from netplane.kube.objects import Object
from netplane.kube.resources import NETWORKPOLICIES

NETWORKPOLICY = shape_of(NETWORKPOLICIES)
INGRESS, EGRESS = "Ingress", "Egress"
UNENFORCED = "netplane stores NetworkPolicies, but nothing enforces them: this policy restricts no traffic"

Fields = Mapping[str, Any]


def _default(policy: Object) -> None:
    spec = policy.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    for rule in [*(spec.get("ingress") or []), *(spec.get("egress") or [])]:
        for port in rule.get("ports") or []:
            if not port.get("protocol"):
                port["protocol"] = "TCP"
    if not spec.get("policyTypes"):
        spec["policyTypes"] = [INGRESS, EGRESS] if spec.get("egress") else [INGRESS]


def _causes(new: Object, _old: Object | None) -> list[Cause]:
    spec = new.get("spec") or {}
    found = selector_causes(spec.get("podSelector") or {}, "spec.podSelector")
    for section, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(section) or []):
            at = f"spec.{section}[{index}]"
            found += _ports_causes(rule.get("ports") or [], f"{at}.ports")
            for number, peer in enumerate(rule.get(side) or []):
                found += _peer_causes(peer, f"{at}.{side}[{number}]")
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        return [
            *found,
            causes.invalid("spec.policyTypes", types, "may not specify more than two policyTypes"),
        ]
    return found + [
        causes.not_supported(f"spec.policyTypes[{index}]", kind, (EGRESS, INGRESS))
        for index, kind in enumerate(types)
        if kind not in (INGRESS, EGRESS)
    ]


def _ports_causes(ports: Iterable[Fields], path: str) -> list[Cause]:
    found = []
    for index, given in enumerate(ports):
        at, port, last = f"{path}[{index}]", given.get("port"), given.get("endPort")
        if given.get("protocol") not in PROTOCOLS:
            found.append(causes.not_supported(f"{at}.protocol", given.get("protocol"), PROTOCOLS))
        if port is not None:
            wrong = names.port_number(port) if isinstance(port, int) else names.port_name(port)
            if wrong:
                found.append(causes.invalid(f"{at}.port", port, wrong))
        if last is None:
            continue
        if port is None:
            found.append(
                causes.invalid(f"{at}.endPort", last, "may not be specified when `port` is not specified")
            )
        elif isinstance(port, str):
            detail = "may not be specified when `port` is non-numeric"
            found.append(causes.invalid(f"{at}.endPort", last, detail))
        elif last < port:
            detail = "must be greater than or equal to `port`"
            found.append(causes.invalid(f"{at}.endPort", last, detail))
        elif wrong := names.port_number(last):
            found.append(causes.invalid(f"{at}.endPort", last, wrong))
    return found


def _peer_causes(peer: Fields, path: str) -> list[Cause]:
    given = [
        field for field in ("podSelector", "namespaceSelector", "ipBlock") if peer.get(field) is not None
    ]
    if not given:
        return [causes.required(path, "must specify a peer")]
    if "ipBlock" in given and len(given) > 1:
        return [causes.forbidden(path, "may not specify both ipBlock and another peer")]
    found = []
    for field in given:
        if field == "ipBlock":
            found += _block_causes(peer["ipBlock"], f"{path}.ipBlock")
        else:
            found += selector_causes(peer[field], f"{path}.{field}")
    return found


def _block_causes(block: Fields, path: str) -> list[Cause]:
    whole = block.get("cidr") or ""
    if not whole:
        return [causes.required(f"{path}.cidr")]
    if wrong := names.ip_network(whole):
        return [causes.invalid(f"{path}.cidr", whole, wrong)]
    network, found = ipaddress.ip_network(whole, strict=False), []
    for index, text in enumerate(block.get("except") or []):
        at = f"{path}.except[{index}]"
        if wrong := names.ip_network(text):
            found.append(causes.invalid(at, text, wrong))
            continue
        part = ipaddress.ip_network(text, strict=False)
        inside = part.version == network.version and part != network and part.subnet_of(network)  # type: ignore[arg-type]
        if not inside:
            found.append(causes.invalid(at, text, f"must be a strict subset of `cidr` ({whole})"))
    return found


def _warnings(_policy: Object) -> list[str]:
    return [UNENFORCED]


_create, _update = with_generation()

KIND = Kind(
    resource=NETWORKPOLICIES,
    default=defaulting(NETWORKPOLICY, _default),
    validate=validating(NETWORKPOLICIES, NETWORKPOLICY, _causes),
    columns=(
        NAME,
        Column(
            "Pod-Selector",
            "string",
            lambda policy: selector_text((policy.get("spec") or {}).get("podSelector")),
        ),
        AGE,
    ),
    fields=name_fields,
    prepare_create=_create,
    prepare_update=_update,
    warnings=_warnings,
)
