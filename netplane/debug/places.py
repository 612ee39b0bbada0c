"""Where a look is taken: the kernel's state of a node can only be read on that node.

Explain and capture say *what* to run; whoever calls them knows how to run it on a node (the lab joins the node's
namespaces; on a plain host there is only this machine). Nothing else crosses between nodes.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

Spawn = Callable[[str, Sequence[str]], Awaitable[asyncio.subprocess.Process | None]]
"""`await spawn(node_name, argv)` starts argv inside that node with stdin and stdout as pipes (stderr inherited).

None means that this node cannot be looked into from here; its hops are then reported as not observed.
"""


def module(name: str, *arguments: str) -> list[str]:
    """The argv that runs one of our modules on a node with the interpreter that runs us."""
    return [sys.executable, "-m", name, *arguments]


def only_here(node: str) -> Spawn:
    """The places of a plain machine: the node with this name is here, every other is out of sight."""

    async def spawn(name: str, argv: Sequence[str]) -> asyncio.subprocess.Process | None:
        if name != node:
            return None
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)

    return spawn
