"""Files and flags become frozen dataclasses, or an error that names the field.

Every daemon's settings are a dataclass of its own room; this room only knows how to read one. Keys are
camelCase in YAML, as in Kubernetes, and snake_case in Python.
"""

import dataclasses
import difflib
import hashlib
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import Any, TypeVar

import yaml

from netplane.errors import ConfigError, cause_of

T = TypeVar("T")

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

CLUSTER_CIDRS: tuple[IPNetwork, ...] = (IPv4Network("10.244.0.0/16"),)
SERVICE_CIDRS: tuple[IPNetwork, ...] = (IPv4Network("10.96.0.0/12"),)
DNS_ADDRESSES: tuple[IPAddress, ...] = (IPv4Address("10.96.0.10"),)
CLUSTER_DOMAIN = "cluster.local"


@dataclasses.dataclass(frozen=True, slots=True)
class Paths:
    """Where one node keeps its files; ``/`` on a machine, another directory in a lab. Two roots never meet."""

    root: Path = Path("/")

    @property
    def etc(self) -> Path:
        """Configuration, kubeconfigs and certificates."""
        return self.root / "etc/netplane"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.etc / "pki"

    @property
    def run(self) -> Path:
        """Sockets: gone at boot."""
        return self.root / "run/netplane"

    @property
    def state(self) -> Path:
        """What must survive a reboot."""
        return self.root / "var/lib/netplane"

    @property
    def logs(self) -> Path:
        """Daemon logs and pod logs."""
        return self.root / "var/log/netplane"

    @property
    def cni_conf_dir(self) -> Path:
        """Network configuration lists, shared with other networks."""
        return self.root / "etc/cni/net.d"

    @property
    def cni_bin_dir(self) -> Path:
        """Plugin executables, shared with other networks."""
        return self.root / "opt/cni/bin"

    @property
    def cni_socket(self) -> Path:
        """Where the CNI daemon answers the executable."""
        return self.run / "cni.sock"

    @property
    def supervise_socket(self) -> Path:
        """Where PID 1 of the node answers."""
        return self.run / "supervise.sock"

    @property
    def proxy_socket(self) -> Path:
        """Where the proxy shows its targets and flows."""
        return self.run / "proxy.sock"

    @property
    def bpf_mount(self) -> Path:
        """The BPF file system that holds the node's pins: the machine's own, or one of the node's."""
        return Path("/sys/fs/bpf") if self.root == Path("/") else self.run / "bpf"

    @property
    def bpf_root(self) -> Path:
        """The node's pins."""
        return self.bpf_mount / "netplane"

    @property
    def cgroup_name(self) -> str:
        """The node's directory under each cgroup hierarchy: one name per root."""
        if self.root == Path("/"):
            return "netplane"
        digest = hashlib.sha256(str(self.root.absolute()).encode()).hexdigest()[:12]
        return f"netplane-{digest}"

    def kubeconfig(self, daemon: str) -> Path:
        """The default kubeconfig of a daemon: ``node``, ``proxy``, ``dns``, ``controlplane`` or ``admin``."""
        return self.etc / f"{daemon}.kubeconfig"


def load(cls: type[T], path: Path | None, /, **overrides: Any) -> T:
    """Read ``cls`` from a YAML file; ``overrides`` that are not None win. A missing file is all defaults.

    Raises ConfigError naming the file and the field that is unknown, missing or wrong.
    """
    document: Any = {}
    if path is not None and path.exists():
        try:
            document = yaml.safe_load(path.read_text()) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {cause_of(error)}") from None
    source = str(path) if path is not None else "flags"
    if not isinstance(document, dict):
        raise ConfigError(f"cannot use {source}: it is a {type(document).__name__}, not a mapping")
    return parse(cls, document, source, **overrides)


def parse(cls: type[T], document: Mapping[str, Any], source: str, /, **overrides: Any) -> T:
    """Build a dataclass from a mapping with camelCase keys; ``overrides`` that are not None win.

    Raises ConfigError naming ``source`` and field.
    """
    given = {_camel(name): value for name, value in overrides.items() if value is not None}
    return typing.cast("T", _Parser(source).build(cls, {**document, **given}, ""))


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    words = [word.upper() if word in ("cidr", "ip", "dns") else word.capitalize() for word in rest]
    return head + "".join(words) if rest else head


def _keys(name: str) -> set[str]:
    """Spellings accepted for a field: ``cluster_cidrs`` is clusterCidrs and clusterCIDRs."""
    plain = name.split("_")
    camel = plain[0] + "".join(word.capitalize() for word in plain[1:])
    upper = re.sub(r"(Cidr|Ip|Dns)(?=s?([A-Z]|$))", lambda match: match[0].upper(), camel)
    return {camel, upper, _camel(name)}


class _Parser:
    """Turns parsed YAML into typed values, remembering where it is for the error."""

    def __init__(self, source: str) -> None:
        self._source = source

    def build(self, cls: type[Any], document: Any, where: str) -> Any:
        if not isinstance(document, Mapping):
            raise self._error(where, f"must be a mapping, not {document!r}")
        hints = typing.get_type_hints(cls)
        known = {key: field for field in dataclasses.fields(cls) for key in _keys(field.name)}
        values: dict[str, Any] = {}
        for key, value in document.items():
            at = f"{where}.{key}" if where else str(key)
            if key not in known:
                raise self._error(
                    at, _unknown(str(key), [max(_keys(f.name)) for f in dataclasses.fields(cls)])
                )
            values[known[key].name] = self._value(hints[known[key].name], value, at)
        for field in dataclasses.fields(cls):
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and field.name not in values:
                raise self._error(f"{where}.{max(_keys(field.name))}".strip("."), "is missing")
        try:
            return cls(**values)
        except ValueError as error:
            raise self._error(where, str(error)) from None

    def _value(self, kind: Any, value: Any, where: str) -> Any:
        origin = typing.get_origin(kind)
        if origin in (typing.Union, types.UnionType):
            return self._union(kind, value, where)
        if origin is tuple:
            if not isinstance(value, (list, tuple)):
                raise self._error(where, f"must be a list, not {value!r}")
            element = typing.get_args(kind)[0]
            return tuple(self._value(element, item, f"{where}[{i}]") for i, item in enumerate(value))
        if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
            if not isinstance(value, Mapping):
                raise self._error(where, f"must be a mapping, not {value!r}")
            element = typing.get_args(kind)[1]
            return {str(k): self._value(element, v, f"{where}.{k}") for k, v in value.items()}
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return value if isinstance(value, kind) else self.build(kind, value, where)
        return self._scalar(kind, value, where)

    def _union(self, kind: Any, value: Any, where: str) -> Any:
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        if set(options) >= {IPv4Address, IPv6Address}:
            return self._call(ip_address, value, where)
        if set(options) >= {IPv4Network, IPv6Network}:
            return self._call(ip_network, value, where)
        rest = [option for option in options if option is not type(None)]
        return self._value(rest[0], value, where)

    def _scalar(self, kind: Any, value: Any, where: str) -> Any:
        if kind is Any:
            return value
        if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and value is True):
            return value
        if kind is bool or (isinstance(value, bool) and kind in (int, float, str)):
            raise self._error(where, f"must be {_NAMES.get(kind, kind)}, not {value!r}")
        if kind is str:
            raise self._error(where, f"must be a string, not {value!r}")
        if isinstance(kind, type) and issubclass(kind, Enum):
            try:
                return kind(value)
            except ValueError:
                allowed = ", ".join(str(member.value) for member in kind)
                raise self._error(where, f"must be one of {allowed}, not {value!r}") from None
        if kind is int and not isinstance(value, str):
            raise self._error(where, f"must be a whole number, not {value!r}")
        return self._call(kind, value, where)

    def _call(self, make: Callable[[Any], Any], value: Any, where: str) -> Any:
        try:
            return make(value)
        except (ValueError, TypeError) as error:
            wanted = f"must be {_NAMES[make]}, not {value!r}" if make in _NAMES else f"is not valid: {error}"
            raise self._error(where, wanted) from None

    def _error(self, where: str, cause: str) -> ConfigError:
        return ConfigError(f"cannot use {self._source}: {f'{where} {cause}'.strip()}")


def _unknown(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    meant = f", perhaps {near[0]}" if near else ""
    return f"is not a known field{meant} (known: {', '.join(sorted(known))})"


_NAMES: Mapping[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
