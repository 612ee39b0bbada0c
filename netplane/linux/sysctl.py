"""Kernel settings by their dotted names. ``net.*`` ones are those of the calling thread's network namespace."""

from pathlib import Path

from netplane.errors import KernelError


def _path(name: str) -> Path:
    # Interface names may hold dots; sysctl(8) writes those as slashes, and so do we.
    return Path("/proc/sys") / "/".join(part.replace("/", ".") for part in name.split("."))


def read(name: str) -> str:
    """The current value. Raises KernelError where the kernel has no such setting."""
    try:
        return _path(name).read_text().strip()
    except OSError as error:
        raise KernelError(f"cannot read sysctl {name}: {error.strerror}") from None


def write(name: str, value: str) -> bool:
    """Set it, if it is not so already; True where it changed. Raises KernelError with the reason."""
    if read(name).split() == value.split():
        return False
    try:
        _path(name).write_text(value)
    except OSError as error:
        raise KernelError(f"cannot set sysctl {name}={value}: {error.strerror}") from None
    return True
