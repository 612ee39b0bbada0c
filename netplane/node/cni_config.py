"""Network configuration lists as the CNI specification defines them: which one is used, and what a plugin is given.

Pure but for reading the directory. Source: CNI specification 1.1.0, sections 1 and 3.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from netplane.errors import ConfigError

SUPPORTED = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conf", ".conflist", ".json")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """One network: its plugins in order, spoken to in ``version``."""

    name: str
    version: str
    plugins: tuple[Json, ...]
    disable_check: bool = False
    disable_gc: bool = False
    source: str = ""

    def at_least(self, version: str) -> bool:
        """Whether plugins are spoken to in ``version`` or a later one."""
        return number(self.version) >= number(version)

    def as_json(self) -> Json:
        """The list again, for the cache: DEL uses what ADD used, however the file has changed since."""
        return {
            "cniVersion": self.version,
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "plugins": list(self.plugins),
        }

    def request(
        self, plugin: Mapping[str, Any], capability_args: Mapping[str, Any], prev_result: Json | None
    ) -> Json:
        """The configuration for one plugin: the list's name and version, and only the capabilities it declares."""
        body: Json = {
            key: value for key, value in plugin.items() if key not in ("capabilities", "runtimeConfig")
        }
        body["name"], body["cniVersion"] = self.name, self.version
        declared = plugin.get("capabilities") or {}
        runtime = {name: value for name, value in capability_args.items() if declared.get(name)}
        if runtime:
            body["runtimeConfig"] = runtime
        if prev_result is not None:
            body["prevResult"] = prev_result
        return body


def number(version: str) -> tuple[int, ...]:
    """``1.0.0`` as something that compares. Raises ValueError."""
    return tuple(int(part) for part in version.split("."))


def choose_version(stated: str, offered: Sequence[str]) -> str:
    """The highest version both sides know, of `cniVersion` and the optional `cniVersions`. Raises ValueError."""
    known = [version for version in (stated, *offered) if version in SUPPORTED]
    if not known:
        asked = ", ".join(dict.fromkeys((stated, *offered)))
        raise ValueError(f"cniVersion {asked} is not supported (supported: {', '.join(SUPPORTED)})")
    return max(known, key=number)


def parse(document: Any, source: str) -> Network:
    """A list, or a single plugin's configuration as a list of one. Raises ConfigError naming the field."""

    def wrong(cause: str) -> ConfigError:
        return ConfigError(f"cannot use network configuration {source}: {cause}")

    if not isinstance(document, dict):
        raise wrong("it is not an object")
    plugins = document.get("plugins", [document])
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise wrong("name is missing")
    if not isinstance(plugins, list) or not plugins:
        raise wrong("plugins must be a list with at least one plugin")
    for index, plugin in enumerate(plugins):
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise wrong(f"plugins[{index}].type must be the name of an executable, not {kind!r}")
    try:
        version = choose_version(
            str(document.get("cniVersion") or "0.1.0"), document.get("cniVersions") or ()
        )
    except ValueError as error:
        raise wrong(str(error)) from None
    return Network(
        name,
        version,
        tuple(plugins),
        disable_check=_flag(document, "disableCheck"),
        disable_gc=_flag(document, "disableGC"),
        source=source,
    )


def _flag(document: Json, name: str) -> bool:
    return document.get(name) in (True, "true")  # the specification once allowed the string


def read(path: Path) -> Network:
    """One file. Raises ConfigError."""
    try:
        return parse(orjson.loads(path.read_bytes()), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read network configuration {path}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"cannot use network configuration {path}: {error}") from None


def candidates(directory: Path) -> list[Path]:
    """The files that runtimes look at, in their order."""
    return sorted(path for path in directory.glob("*") if path.suffix in SUFFIXES and path.is_file())


def first_usable(paths: Iterable[Path]) -> Network | None:
    """The first file that is a network, as every runtime chooses. Raises ConfigError when all are unusable."""
    problem: ConfigError | None = None
    for path in paths:
        try:
            return read(path)
        except ConfigError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None
