"""Writes what a machine needs for its role; may be run again at every start, and keeps what is still good."""

import ipaddress
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from cni import install as cni_install
from controlplane.auth import files as auth_files
from netplane.config import IPAddress, Paths
from netplane.errors import ConfigError, cause_of
from netplane.machine import before
from netplane.node import address as node_address
from netplane.node.supervise import files as supervise_files
from netplane.node.supervise.files import MASTER, NODE, write_yaml

API_PORT = 6443
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# Nothing is sent there: it only makes the kernel name the source of packets that leave by the default route.
SOMEWHERE_ELSE = ipaddress.ip_address("192.0.2.1")


class Role(StrEnum):
    """What a machine is in the cluster."""

    ALL_IN_ONE = "all-in-one"
    CONTROL_PLANE = "control-plane"


@dataclass(frozen=True, slots=True)
class Configured:
    """How the machine was set up."""

    role: Role
    node: str
    address: IPAddress
    server: str
    ca_hash: str


def configure(root: Path, role: Role, address: str | None = None, name: str | None = None) -> Configured:
    """Certificates, kubeconfigs and settings for the machine at `root`. Blocks.

    `address` is by default the one it was set up with before, or the only one that others can reach.
    Raises ConfigError naming the candidates where that is not clear.
    """
    paths = Paths(root.absolute())
    node, chosen = node_name(name), choose_address(paths, address)
    before.record(paths.root)
    server = f"https://{_in_url(chosen)}:{API_PORT}"
    authority = auth_files.write_cluster(paths.etc, server=server, addresses=[chosen], names=[node])
    merge(paths.etc / "controlplane.yaml", {"addresses": [str(chosen)]})
    daemons: tuple[str, ...] = MASTER
    if role is Role.ALL_IN_ONE:
        auth_files.write_node(paths.etc, authority, node=node, addresses=[chosen], server=server)
        furnish_node(paths, node, {"nodeIp": str(chosen)})
        daemons = (*MASTER, *NODE)
    supervise_files.write(paths.root, daemons)
    return Configured(role, node, chosen, server, authority.hash)


def furnish_node(paths: Paths, node: str, settings: Mapping[str, Any]) -> None:
    """What the node's parts need besides certificates: their settings and the CNI plugin's executable."""
    merge(paths.etc / "node.yaml", {"nodeName": node, **settings})
    merge(paths.etc / "proxy.yaml", {"nodeName": node})
    cni_install.install(paths.cni_bin_dir, Path(sys.executable), paths)


def merge(path: Path, settings: Mapping[str, Any]) -> None:
    """Set fields in a settings file and leave the others as a person wrote them. Raises ConfigError."""
    write_yaml(path, {**read_settings(path), **settings})


def choose_address(paths: Paths, address: str | None) -> IPAddress:
    """See `configure`."""
    facts = node_address.look_up([SOMEWHERE_ELSE])
    if address is not None:
        try:
            wanted = ipaddress.ip_address(address)
        except ValueError:
            raise ConfigError(f"cannot use --address {address!r}: it is not an IP address") from None
        return _one_of_ours(facts, wanted, f"--address {address}")
    before_now = read_settings(paths.etc / "controlplane.yaml").get("addresses")
    if before_now:
        return _one_of_ours(facts, ipaddress.ip_address(before_now[0]), f"the address {before_now[0]}")
    try:
        return node_address.choose(facts)
    except ConfigError as error:
        raise ConfigError(error.message, "Choose one with --address") from None


def _one_of_ours(facts: node_address.Facts, wanted: IPAddress, what: str) -> IPAddress:
    if any(local.address == wanted for local in facts.locals):
        return wanted
    there = ", ".join(f"{local.address} ({local.interface})" for local in facts.locals) or "none"
    raise ConfigError(f"cannot use {what}: no interface of this machine has it (there are: {there})")


def node_name(name: str | None) -> str:
    """The given name, or the host's own. Raises ConfigError where no Node can have it (RFC 1123, section 2.1)."""
    node = (name or socket.gethostname()).lower()
    if len(node) > 253 or not all(map(_LABEL.fullmatch, node.split("."))):
        what = f"--name {name!r}" if name else f"the host name {node!r} for the node"
        raise ConfigError(
            f"cannot use {what}: a node's name is letters, digits, '-' and '.'",
            "" if name else "Choose one with --name",
        )
    return node


def _in_url(address: IPAddress) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def read_settings(path: Path) -> dict[str, Any]:
    """A settings file as it is, empty if there is none. Raises ConfigError naming the file."""
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read {path}: {cause_of(error)}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"cannot use {path}: it is a {type(document).__name__}, not a mapping")
    return document
