"""The border with the container runtime: environment and standard input become one frozen request, or an error
with the specification's code.

Order of checks, as the reference implementation has it: command and variables (4), standard input decoded (6),
version (1), configuration (7 and 2), ``prevResult`` (6). DEL and GC read no more of the configuration than its
name: what an ADD made can be taken away whatever became of the configuration since.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import orjson

from cni import netconf, results
from cni.errors import CniError, Code
from cni.netconf import NetworkConfig
from cni.results import NEWEST, VERSIONS, Result

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_VALID_ATTACHMENTS = "cni.dev/valid-attachments"
_KNOWN_ARGUMENTS = (
    "IP",
    "MAC",
    "IgnoreUnknown",
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_UID",
)
_KEPT = 64  # texts of standard input that are not read anew: most pods of a node have the same
IFNAME_LIMIT = 15  # IFNAMSIZ less its NUL


class Command(StrEnum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_ATTACHMENT = ("CNI_CONTAINERID", "CNI_IFNAME")
_REQUIRED: Mapping[Command, tuple[str, ...]] = {
    Command.ADD: (*_ATTACHMENT, "CNI_NETNS", "CNI_PATH"),
    Command.DEL: (*_ATTACHMENT, "CNI_PATH"),
    Command.CHECK: (*_ATTACHMENT, "CNI_NETNS", "CNI_PATH"),
    Command.GC: ("CNI_PATH",),
    Command.STATUS: ("CNI_PATH",),
    Command.VERSION: (),
}
_COMMANDS: Mapping[str, Command] = {str(command): command for command in Command}
_CONFIGURED = (Command.ADD, Command.CHECK, Command.STATUS)
_SINCE: Mapping[Command, str] = {Command.CHECK: "0.4.0", Command.GC: "1.1.0", Command.STATUS: "1.1.0"}


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """The identity of one interface of one container in one network: what a lease belongs to."""

    network: str
    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.network}/{self.container_id}/{self.ifname}"

    def digest(self) -> str:
        """64 hexadecimal digits: names and addresses of what belongs to it are made from them."""
        return _digest(self)


@dataclass(frozen=True, slots=True)
class Request:
    """A valid request. ``config`` is there for ADD, CHECK and STATUS, ``valid`` for GC."""

    command: Command
    version: str
    attachment: Attachment
    netns: str = ""
    config: NetworkConfig | None = None
    previous: Result | None = None
    valid: frozenset[Attachment] = frozenset()


def parse(environment: Mapping[str, str], stdin: bytes) -> Request:
    """Raises CniError. See the module for the order of the checks."""
    command = _command(environment)
    arguments = _check_environment(command, environment)
    document = _decode(stdin) if stdin.strip() or command is not Command.VERSION else {}
    version = document.get("cniVersion") or ("0.1.0" if command is not Command.VERSION else NEWEST)
    if command is Command.VERSION:
        return Request(command, version if version in VERSIONS else NEWEST, Attachment("", "", ""))
    _check_version(command, version)
    network = _network_name(document)
    attachment = Attachment(
        network, environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    )
    netns = environment.get("CNI_NETNS", "")
    if command is Command.GC:
        return Request(command, version, attachment, valid=_valid_attachments(document, network))
    if command is Command.DEL:
        return Request(command, version, attachment, netns)
    config = _config(stdin, tuple((key, arguments[key]) for key in ("IP", "MAC") if key in arguments))
    return Request(command, version, attachment, netns, config, _previous(command, document))


def version_of(stdin: bytes) -> str:
    """The version an error is written in: the request's, as far as it can be read and is known."""
    try:
        document = orjson.loads(stdin)
    except orjson.JSONDecodeError:
        return NEWEST
    version = document.get("cniVersion") if isinstance(document, dict) else None
    return version if version in VERSIONS else NEWEST


def render_version(version: str) -> bytes:
    """The answer to VERSION."""
    return orjson.dumps({"cniVersion": version, "supportedVersions": list(VERSIONS)}) + b"\n"


def _command(environment: Mapping[str, str]) -> Command:
    given = environment.get("CNI_COMMAND", "")
    found = _COMMANDS.get(given)
    if found is None:
        cause = "is missing" if not given else f"{given!r} is not one of {', '.join(Command)}"
        raise _environment(f"CNI_COMMAND {cause}")
    return found


def _check_environment(command: Command, environment: Mapping[str, str]) -> Mapping[str, str]:
    """CNI_ARGS of an ADD or a CHECK come back."""
    for name in (*_REQUIRED[command], "CNI_NETNS", "CNI_ARGS"):
        # Nor bytes that are not UTF-8: JSON could not repeat them.
        if not environment.get(name, "").isprintable():
            raise _environment(f"{name} {environment[name]!r} is not printable text")
    missing = [name for name in _REQUIRED[command] if not environment.get(name)]
    if missing:
        raise _environment(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if "CNI_CONTAINERID" in _REQUIRED[command]:
        container_id = environment["CNI_CONTAINERID"]
        if not _IDENTIFIER.fullmatch(container_id):
            raise _environment(
                f"CNI_CONTAINERID {container_id!r} must begin with a letter or digit and hold only those, _, . and -"
            )
        _check_ifname(environment["CNI_IFNAME"])
    arguments = _arguments(environment.get("CNI_ARGS", "")) if command in _CONFIGURED else {}
    if command is Command.ADD:
        _check_arguments(arguments)
    return arguments


def _check_ifname(name: str) -> None:
    if len(name.encode()) > IFNAME_LIMIT:
        raise _environment(f"CNI_IFNAME {name!r} is longer than {IFNAME_LIMIT} bytes")
    if name in (".", "..") or re.search(r"[/:\s\0]", name):
        raise _environment(f"CNI_IFNAME {name!r} cannot be an interface's name")


def _check_arguments(pairs: Mapping[str, str]) -> None:
    """What we do not know is an error unless IgnoreUnknown says otherwise."""
    unknown = sorted(set(pairs) - set(_KNOWN_ARGUMENTS))
    if unknown and pairs.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        raise _environment(
            f"CNI_ARGS has unknown keys {', '.join(unknown)}", "IgnoreUnknown=1 lets them through"
        )


def _arguments(text: str) -> Mapping[str, str]:
    """CNI_ARGS: ``KEY=VALUE;KEY=VALUE``."""
    pairs: dict[str, str] = {}
    for part in (part for part in text.split(";") if part):
        key, separator, value = part.partition("=")
        if not separator or not key:
            raise _environment(f"CNI_ARGS {part!r} is not KEY=VALUE")
        pairs[key] = value
    return pairs


@lru_cache(maxsize=_KEPT)
def _decode(stdin: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(stdin)
    except orjson.JSONDecodeError as error:
        raise CniError(Code.DECODING_FAILURE, f"cannot decode the network configuration: {error}") from None
    if not isinstance(document, dict):
        raise CniError(
            Code.DECODING_FAILURE, "cannot decode the network configuration: it is not a JSON object"
        )
    return document


@lru_cache(maxsize=_KEPT)
def _config(stdin: bytes, arguments: tuple[tuple[str, str], ...]) -> NetworkConfig:
    return netconf.parse(_decode(stdin), dict(arguments))


def _check_version(command: Command, version: Any) -> None:
    if version not in VERSIONS:
        supported = ", ".join(VERSIONS)
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cannot answer: cniVersion {version!r} is not supported ({supported} are)",
        )
    since = _SINCE.get(command)
    if since is not None and VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f"cannot answer {command}: it needs cniVersion {since}, not {version}"
        )


def _network_name(document: Mapping[str, Any]) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        shown = (
            "is missing"
            if not name
            else f"{name!r} must begin with a letter or digit and hold only those, _, . and -"
        )
        raise CniError(Code.INVALID_CONFIG, f"cannot use the network configuration: name {shown}")
    return name


def _previous(command: Command, document: Mapping[str, Any]) -> Result | None:
    if document.get("prevResult") is not None:
        return results.parse(document["prevResult"])
    if command is Command.CHECK:
        raise CniError(Code.INVALID_CONFIG, "cannot use the network configuration: prevResult is missing")
    return None


def _valid_attachments(document: Mapping[str, Any], network: str) -> frozenset[Attachment]:
    entries = document.get(_VALID_ATTACHMENTS)
    if not isinstance(entries, list):
        cause = "is missing" if entries is None else "is not a list"
        raise CniError(
            Code.INVALID_CONFIG, f"cannot use the network configuration: {_VALID_ATTACHMENTS} {cause}"
        )
    found = set()
    for index, entry in enumerate(entries):
        names = [entry.get(key) if isinstance(entry, dict) else None for key in ("containerID", "ifname")]
        if not all(isinstance(name, str) and name for name in names):
            where = f"{_VALID_ATTACHMENTS}[{index}]"
            raise CniError(
                Code.INVALID_CONFIG,
                f"cannot use the network configuration: {where} needs containerID and ifname",
            )
        found.add(Attachment(network, *(str(name) for name in names)))
    return frozenset(found)


@lru_cache(maxsize=256)
def _digest(attachment: Attachment) -> str:
    return hashlib.sha256(str(attachment).encode()).hexdigest()


def _environment(cause: str, hint: str = "") -> CniError:
    return CniError(Code.INVALID_ENVIRONMENT, f"cannot answer: {cause}", hint)
