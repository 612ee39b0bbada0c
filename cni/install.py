"""Puts the plugin's executable where container runtimes look for it: the C shim where `./dev setup` could build it,
else the same in Python, which costs each call an interpreter's start.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from cni.journal import journal_path
from netplane.config import Paths
from netplane.errors import ConfigError

NAME = "netplane"
SHIM = Path(__file__).parent / "shim" / "build" / "shim"
_SHEBANG_LIMIT = 255  # the kernel reads 256 bytes (BINPRM_BUF_SIZE)
_PLACE_BYTES = 256  # PATH_BYTES of shim.c, with its NUL


@dataclass(frozen=True, slots=True)
class Installed:
    """Where the executable is, and whether it is the shim or Python."""

    path: Path
    kind: str


def install(directory: Path, python: Path, paths: Paths, shim: Path = SHIM) -> Installed:
    """Write ``directory/netplane`` by rename, so that a runtime never runs half of it.

    ``python`` runs what the daemon cannot answer, and must be absolute (a runtime's PATH is not ours). Raises
    ConfigError.
    """
    sockets, journal = paths.cni_socket, journal_path(paths.state)
    for name, path in (("interpreter", python), ("socket", sockets), ("journal", journal)):
        if not path.is_absolute():
            raise ConfigError(f"cannot install the CNI plugin: the {name} {path} is not an absolute path")
    places = {"SOCKET": sockets, "PYTHON": python, "JOURNAL": journal}
    if shim.exists():
        kind, content = "shim", _shim(shim, places)
    else:
        kind, content = "python", _python(places).encode()
    path = directory / NAME
    staged = directory / f".{NAME}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(content)
        staged.chmod(0o755)
        staged.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise ConfigError(f"cannot install the CNI plugin in {directory}: {error.strerror}") from None
    return Installed(path, kind)


def _shim(compiled: Path, places: dict[str, Path]) -> bytes:
    """The compiled file with the paths in their places."""
    content = compiled.read_bytes()
    for name, path in places.items():
        word, value = f"@NETPLANE-{name}@".encode(), os.fsencode(path)
        if len(value) >= _PLACE_BYTES:
            raise ConfigError(f"cannot install the CNI plugin: {path} has more than {_PLACE_BYTES - 1} bytes")
        place = word.ljust(_PLACE_BYTES, b"\0")
        if content.count(place) != 1:
            raise ConfigError(
                f"cannot install the CNI plugin: {compiled} is not of this netplane", "./dev setup"
            )
        content = content.replace(place, value.ljust(_PLACE_BYTES, b"\0"))
    return content


def _python(places: dict[str, Path]) -> str:
    """``executable.py`` with the paths in their places."""
    python = places["PYTHON"]
    shebang = f"#!{python} -IS"
    if len(shebang.encode()) > _SHEBANG_LIMIT or any(c.isspace() for c in str(python)):
        raise ConfigError(f"cannot install the CNI plugin: {python} does not fit a #! line")
    lines = (Path(__file__).parent / "executable.py").read_text().splitlines(keepends=True)
    for name, path in places.items():
        (index,) = [i for i, line in enumerate(lines) if line.startswith(f"{name}_PATH = ")]
        lines[index] = f"{name}_PATH = {str(path)!r}\n"
    return f"{shebang}\n{''.join(lines)}"
