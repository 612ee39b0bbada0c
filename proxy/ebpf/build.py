"""Compiles the programs: `python -m proxy.ebpf.build`, run by `./dev setup`."""

import os
import platform
import shutil
import subprocess
import sys

from netplane.errors import ConfigError, NetplaneError
from proxy.ebpf.objects import PODS, SOCKETS, Source

FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror")


def build() -> bool:
    """Compile what has changed; whether anything had. Raises ConfigError naming what is missing."""
    return max(list(map(_build, (SOCKETS, PODS))))


def _build(source: Source) -> bool:
    if source.object.exists() and source.stamp.exists() and source.stamp.read_text() == source.digest:
        return False
    clang = shutil.which("clang")
    if clang is None:
        raise ConfigError(
            "cannot build the ebpf programs: clang is not installed", "Install clang and libbpf-dev"
        )
    source.object.parent.mkdir(exist_ok=True)
    made = source.object.with_suffix(f".{os.getpid()}")
    headers = f"/usr/include/{platform.machine()}-linux-gnu"  # asm/types.h: Debian has it an architecture
    command = [clang, *FLAGS, "-idirafter", headers, "-c", str(source.file), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        made.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot build the ebpf programs: {done.stderr.strip()}", "Is libbpf-dev installed?"
        )
    made.replace(source.object)
    source.stamp.write_text(source.digest)
    return True


if __name__ == "__main__":
    try:
        build()
    except NetplaneError as error:
        sys.exit(f"netplane: {error}")
