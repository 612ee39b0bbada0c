"""`python -IS .../netplane/node/sandbox DIRECTORY`: become the sandbox that DIRECTORY/sandbox.json describes.

The process that the agent starts leaves at once; its child is the pod's PID 1, inherited by the node's PID 1. The
child says one line on standard output, "ready" or what went wrong, and closes it.
"""

import json
import os
import socket
import sys

# `-IS` leaves only the standard library on the path; append (never prepend) the place of the netplane package.
sys.path.append(os.path.abspath(__file__).rsplit("/", 4)[0])  # noqa: PTH100

from netplane.node.sandbox.loop import Sandbox
from netplane.node.sandbox.setup import Plan, enter, furnish


def main(directory: str) -> None:
    """Set up, say so, serve until stopped."""
    try:
        with open(f"{directory}/sandbox.json") as file:  # noqa: PTH123
            plan = Plan(directory=directory, **json.load(file))
        enter(plan)
        if os.fork() != 0:
            os._exit(0)
        furnish(plan)
        listener = _listen(f"{directory}/s")
    except (OSError, ValueError, TypeError) as error:
        _say(f"{error.strerror if isinstance(error, OSError) and error.strerror else error}")
        sys.exit(1)
    _say("ready")
    os.chdir("/")
    Sandbox(directory, listener).run()


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    os.umask(0o077)
    listener.bind(path)
    listener.listen(64)
    listener.setblocking(False)
    return listener


def _say(line: str) -> None:
    """Tell the starter, then let go of its pipe: standard output leads nowhere from here on."""
    os.write(1, line.encode() + b"\n")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)


main(sys.argv[1])
