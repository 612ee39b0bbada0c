"""Enters a pod from its node: `python -m netplane.lab.pod ADDRESS COMMAND...` becomes the command, inside.

Run on the pod's node. The pod is found by its address in the kernel, not in anybody's records.
"""

import os
import sys

from netplane.debug.attached import process_in
from netplane.errors import ConfigError, NetplaneError


def main(address: str, command: list[str]) -> int:
    """Returns only if it cannot."""
    try:
        pid = process_in(address)
        if not pid:
            raise ConfigError(
                f"cannot enter the pod at {address}: no process of this node is in its namespace"
            )
        enter = ["nsenter", "-t", str(pid), "--net", "--mount", "--uts", "--"]
        os.execvp(enter[0], [*enter, *command])
    except (NetplaneError, OSError) as error:
        sys.stderr.write(f"{error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
