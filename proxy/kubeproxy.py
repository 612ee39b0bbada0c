"""kube-proxy's own configuration file, read as ours.

Why: whoever replaces kube-proxy has such a file. What it says and we do is done; what it says and we do not
is named in a warning, key by key, because a setting that is silently without effect is worse than none.
"""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml

from netplane.errors import ConfigError

API_VERSION, KIND = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"
OUR_MODES = ("userspace", "nftables", "ebpf", "auto")


def read(path: Path | None) -> Mapping[str, Any] | None:
    """The KubeProxyConfiguration in a file; None where it is something else, which others judge."""
    try:
        document = yaml.safe_load(path.read_text()) if path is not None else None
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) and document.get("kind") == KIND else None


def translate(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Our settings, and a warning for each key that has no effect here. Raises ConfigError.

    Source: kubernetes/kube-proxy ``config/v1alpha1/types.go``.
    """
    if document.get("apiVersion") != API_VERSION:
        raise ConfigError(f"cannot read {KIND} {document.get('apiVersion')}: only {API_VERSION} is known")
    ours: dict[str, Any] = {"mode": "auto"}
    ignored: list[str] = []
    for key, value in document.items():
        if key in ("apiVersion", "kind") or value in (None, "", [], {}):
            continue
        if key == "mode":
            if value in OUR_MODES:
                ours["mode"] = value
            else:
                ignored.append(f"mode: {value} is served by mode auto, the best one that this kernel has")
        elif key == "hostnameOverride":
            ours["nodeName"] = value
        elif key in ("clusterCIDR", "detectLocalMode"):
            continue  # below: they go together
        elif key == "nodePortAddresses":
            ours["nodePortAddresses"] = list(value)
        elif key in ("healthzBindAddress", "metricsBindAddress"):
            ours[f"{key.removesuffix('BindAddress').removesuffix('z')}Port"] = _port(key, value)
            ignored.append(
                f"{key}: only its port is used; netplane serves on 127.0.0.1 and the node's addresses"
            )
        elif key == "clientConnection":
            ignored += _connection(value, ours)
        else:
            ignored.append(f"{key}: has no effect")
    ours["clusterCidrs"], unsaid = _pods(document)
    return ours, ignored + unsaid


def _pods(document: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The pods' networks, [] for those of this node alone; and warnings."""
    text, mode = str(document.get("clusterCIDR") or ""), document.get("detectLocalMode") or "ClusterCIDR"
    if mode == "NodeCIDR":
        return [], []
    said = [f"detectLocalMode: {mode} has no effect"] if mode != "ClusterCIDR" else []
    if not text:
        said.append(
            "clusterCIDR: is empty, so only pods of this node (its podCIDRs) count as the cluster's; "
            "--cluster-cidrs names the others"
        )
    try:
        return [str(ip_network(one.strip(), strict=False)) for one in text.split(",") if one.strip()], said
    except ValueError as error:
        raise ConfigError(f"cannot read clusterCIDR {text!r}: {error}") from None


def _connection(value: Mapping[str, Any], ours: dict[str, Any]) -> list[str]:
    if value.get("kubeconfig"):
        ours["kubeconfig"] = value["kubeconfig"]
    others = [key for key, given in value.items() if key != "kubeconfig" and given]
    return [f"clientConnection.{key}: has no effect" for key in others]


def _port(key: str, value: object) -> int:
    port = str(value).rpartition(":")[2]
    if not port.isdigit():
        raise ConfigError(f"cannot read {key} {value!r}: it is ADDRESS:PORT")
    return int(port)
