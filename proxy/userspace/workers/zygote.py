"""Where keepers come from: a process that has imported all that a worker needs, once, and is copied for each.

Why: an interpreter with everything imported takes 15 MiB and a quarter of a second. Copied, it shares these pages
with all workers, and a new one is there in milliseconds. A zygote has no thread, no event loop and no flow, so it
may be copied at any time, and lost without harm: the proxy starts another one when it needs one.

Run as ``python -m proxy.userspace.workers.zygote CHANNEL``: the number of a descriptor.
"""

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress

from proxy.userspace.workers import channel, keeper, process
from proxy.userspace.workers.cloning import clone_sibling, name_process

ZYGOTE = b"netplane-zygote"  # as ps(1) shows it
M_MMAP_THRESHOLD = -3  # malloc.h; mallopt(3)
LARGE = 64 * 1024  # bytes: more than the largest read (32 KiB), less than a table of many connections
log = logging.getLogger(__name__)


def serve(proxy: socket.socket) -> None:
    """Start a keeper for each message that has a channel for it, until the proxy is gone."""
    name_process(ZYGOTE)
    # A table that has become smaller goes back to the system at once, and not into a heap that never shrinks.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
    gc.collect()
    gc.freeze()  # a collection in a child would write to every page
    while (asked := channel.receive(proxy)) is not None:
        options, (theirs,) = asked
        try:
            pid = clone_sibling()
        except OSError as error:
            os.close(theirs)
            _answer(proxy, {"error": error.strerror})
            continue
        if pid == 0:
            proxy.close()
            _keep(socket.socket(fileno=theirs), process.Options(**options))
        os.close(theirs)
        _answer(proxy, {"pid": pid})


def _answer(proxy: socket.socket, answer: channel.Message) -> None:
    with suppress(OSError):  # it has gone, which is heard next
        channel.send(proxy, answer)


def _keep(worker_channel: socket.socket, options: process.Options) -> None:
    status = 1
    try:
        worker_channel.setblocking(False)
        status = keeper.keep(worker_channel, options)
    except BaseException:
        log.exception("bug in a keeper, please report it")
    finally:
        os._exit(status)


def main() -> None:
    """Run as a program."""
    logging.basicConfig(
        level=os.environ.get("NETPLANE_LOG", "INFO").upper(),
        format="%(asctime)s proxy %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # The proxy says when to end; a signal to all of its processes must not cut anybody's connection.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    proxy = socket.socket(fileno=int(sys.argv[1]))
    proxy.setblocking(True)
    serve(proxy)


if __name__ == "__main__":
    main()
