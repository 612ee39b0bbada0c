"""pyroute2's IPRoute for worker threads and short commands.

Not for a thread that runs an event loop: pyroute2's synchronous API brings its own. A socket keeps the
namespace it was opened in, so only the opening happens inside.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from pyroute2 import IPRoute

from netplane.linux.namespaces import entered_netns


@contextmanager
def rtnl(netns: int | str | os.PathLike[str] | None = None) -> Iterator[IPRoute]:
    """An rtnetlink socket in ``netns`` (default: the calling thread's).

    Raises KernelError where the namespace is gone: pyroute2 by itself would make a new one of that name.
    """
    with entered_netns(netns) if netns is not None else nullcontext():
        ipr = IPRoute()
    try:
        yield ipr
    finally:
        ipr.close()
