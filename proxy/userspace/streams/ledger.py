"""Which descriptors belong together, in memory that outlives the process which writes it.

Why: a flow is two sockets, perhaps pipes, and what the kernel knows of them; nothing of it is in user space past
a turn of the loop. So two numbers a connection are all that a next process needs to go on with the flows of one
that was killed (``workers.recovery``), and the stores cost next to nothing.
"""

import mmap
import resource
from typing import Final

MOST = 1 << 20  # descriptors: the kernel's own default for fs.nr_open
LINK: Final = 1 << 31
PREFACED: Final = 1 << 30  # beside an endpoint's descriptor: before all else it is given a header of ours


class Ledger:
    """By descriptor: a client's endpoint (``peers``), and the pipe that holds what was read. Inherited by clone(2).

    ``watch``: one number, of the epoll set in which all connections are; 0 while some are elsewhere.
    ``doubt``: one number, not 0 while flows pass between processes (``handover``). A connection that has no endpoint
    here may then be another process's: whoever finds it so ends it for both, and never serves it.
    """

    __slots__ = ("_memory", "doubt", "peers", "pipes", "size", "watch")

    def __init__(self) -> None:
        self.size = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], MOST)
        self._memory = mmap.mmap(-1, 16 + self.size * 12)  # shared, anonymous, and real only where written
        view = memoryview(self._memory)
        self.watch = view[:8].cast("q")
        self.doubt = view[8:16].cast("q")
        view = view[16:]
        self.pipes = view[: self.size * 8].cast("q")  # read end << 31 | write end; 0: none
        self.peers = view[self.size * 8 :].cast("i")  # at the client's socket: the endpoint's; 0: none

    def endpoint_of(self, client: int) -> int:
        """The descriptor of a client's endpoint, 0 where it has none."""
        return self.peers[client] & ~PREFACED

    def pipe_of(self, fd: int) -> tuple[int, int] | None:
        """The read and write end of the pipe that holds what was read from a socket."""
        return divmod(self.pipes[fd], LINK) if self.pipes[fd] else None
