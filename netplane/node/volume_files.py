"""Writing a volume's files so that a reader sees the old ones or the new ones, never a mixture.

The files are in a directory of their own; `..data` points to it and is replaced by rename; the names that containers
read are links through `..data`. Source: Kubernetes `pkg/volume/util/atomic_writer.go`.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from netplane.errors import KernelError
from netplane.node.volumes import File

DATA = "..data"


def write(directory: Path, files: Mapping[str, File]) -> bool:
    """Make the volume hold exactly these files; whether that was a change. Raises KernelError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        if _same(directory, files):
            return False
        _replace(directory, files)
    except OSError as error:
        raise KernelError(f"cannot write volume {directory.name}: {error.strerror}") from None
    return True


def _same(directory: Path, files: Mapping[str, File]) -> bool:
    data = directory / DATA
    if not data.is_symlink():
        return False
    have = {
        str(path.relative_to(data)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in data.rglob("*")
        if path.is_file()
    }
    return have == {name: (file.data, file.mode & 0o777) for name, file in files.items()}


def _replace(directory: Path, files: Mapping[str, File]) -> None:
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    fresh.chmod(0o755)
    for name, file in files.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(file.data)
        path.chmod(file.mode)
    link = directory / f"{DATA}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(directory / DATA)
    names = {name.split("/")[0] for name in files}
    for name in names:
        if not os.path.lexists(directory / name):
            (directory / name).symlink_to(f"{DATA}/{name}")
    for path in directory.iterdir():
        if path.name.startswith(".."):
            if path.name not in (DATA, fresh.name):
                shutil.rmtree(path, ignore_errors=True)
        elif path.name not in names:
            path.unlink()
