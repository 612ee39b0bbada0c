"""Compiles the programs: `python -m proxy.ebpf.build`, run by `./dev setup`.

Why a stamp beside the object: the loader refuses an object that was built from other sources, so nobody wonders
why an edit has no effect.
"""

import os
import platform
import shutil
import subprocess
import sys

from netplane.errors import ConfigError, NetplaneError
from proxy.ebpf.pins import OBJECT, SOURCES, STAMP, digest

FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror")


def build() -> bool:
    """Compile where the sources have changed; whether it did. Raises ConfigError naming what is missing."""
    if OBJECT.exists() and STAMP.exists() and STAMP.read_text() == digest(SOURCES):
        return False
    clang = shutil.which("clang")
    if clang is None:
        raise ConfigError(
            "cannot build the ebpf programs: clang is not installed", "Install clang and libbpf-dev"
        )
    OBJECT.parent.mkdir(exist_ok=True)
    made = OBJECT.with_suffix(f".{os.getpid()}")
    headers = f"/usr/include/{platform.machine()}-linux-gnu"  # asm/types.h: Debian has it an architecture
    command = [clang, *FLAGS, "-idirafter", headers, "-c", str(SOURCES[1]), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        made.unlink(missing_ok=True)
        raise ConfigError(
            f"cannot build the ebpf programs: {done.stderr.strip()}", "Is libbpf-dev installed?"
        )
    made.replace(OBJECT)
    STAMP.write_text(digest(SOURCES))
    return True


if __name__ == "__main__":
    try:
        build()
    except NetplaneError as error:
        sys.exit(f"netplane: {error}")
