"""Control planes to be killed: `python lives.py ROOT [SIZE]` forks one at each "start" on its standard input.

The modules are loaded once, so a life begins in tens of milliseconds. With SIZE (as of mount's size=) the state
directory is a tmpfs in a mount namespace of our own: nothing of it is left when this process has ended.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from controlplane.server import Settings, serve
from netplane import runner
from netplane.config import load

CLONE_NEWNS = 0x00020000


def live(root: Path) -> int:
    settings = load(Settings, root / "etc/netplane/controlplane.yaml", root=root)
    return runner.run(lambda daemon: serve(settings, daemon), name="controlplane")


def main() -> None:
    root, size = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    if size:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        state = root / "var/lib/netplane"
        state.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", state], check=True)
    for line in sys.stdin:
        if line == "start\n":
            pid = os.fork()
            if not pid:
                os._exit(live(root))
            print(pid, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(int(line), 0)[1]), flush=True)


main()
