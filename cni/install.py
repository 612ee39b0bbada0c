"""Puts the plugin's executable where container runtimes look for it."""

import contextlib
import os
from pathlib import Path

from netplane.errors import ConfigError

NAME = "netplane"
_SOCKET_LINE = 'SOCKET_PATH = "/run/netplane/cni.sock"\n'
_SHEBANG_LIMIT = 255  # the kernel reads 256 bytes (BINPRM_BUF_SIZE)


def install(directory: Path, python: Path, socket_path: Path) -> Path:
    """Write ``directory/netplane`` by rename, so that a runtime never runs half of it; the path comes back.

    ``python`` becomes the shebang and must be absolute (a runtime's PATH is not ours). Raises ConfigError.
    """
    for name, path in (("interpreter", python), ("socket", socket_path)):
        if not path.is_absolute():
            raise ConfigError(f"cannot install the CNI plugin: the {name} {path} is not an absolute path")
    shebang = f"#!{python} -IS"
    if len(shebang.encode()) > _SHEBANG_LIMIT or any(c.isspace() for c in str(python)):
        raise ConfigError(f"cannot install the CNI plugin: {python} does not fit a #! line")
    path = directory / NAME
    staged = directory / f".{NAME}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staged.write_text(f"{shebang}\n{source(socket_path)}")
        staged.chmod(0o755)
        staged.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise ConfigError(f"cannot install the CNI plugin in {directory}: {error.strerror}") from None
    return path


def source(socket_path: Path) -> str:
    """The text of the executable for a daemon that listens on ``socket_path``."""
    template = (Path(__file__).parent / "executable.py").read_text()
    return template.replace(_SOCKET_LINE, f"SOCKET_PATH = {str(socket_path)!r}\n")
