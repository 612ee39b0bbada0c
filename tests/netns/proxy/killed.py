"""Changes of the kernel by a process that is killed at the n-th of them: a real kill -9, before the call is made.

Why ptrace(2): libbpf makes and pins maps, programs and links by many calls of its own, in between which no Python runs.
Run as ``python -m tests.netns.proxy.killed ROOT`` in the node's network namespace: each line asks for one process.
"""

import asyncio
import ctypes
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from netplane.config import Paths
from proxy.ebpf.datapath import EbpfDataPath
from proxy.ebpf.probe import where
from proxy.flush import flush
from proxy.nftables.datapath import NftablesDataPath
from tests import flows

TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E  # linux/ptrace.h
TRACE_SYSCALLS, TRACE_THREADS, END_WITH_US = 1, 8, 0x100000  # PTRACE_O_TRACESYSGOOD, _TRACECLONE, _EXITKILL
WALL = 0x40000000
ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
# System calls by machine (asm/unistd.h): bpf, mount, mkdir, unlink, rmdir.
NUMBERS = {
    "x86_64": {321: "bpf", 165: "mount", 166: "umount", 83: "mkdir", 258: "mkdir", 87: "unlink", 84: "rmdir"},
    "aarch64": {280: "bpf", 40: "mount", 39: "umount", 34: "mkdir", 35: "unlink"},
}[platform.machine()]
# Of bpf(2), those that outlive the process, without writes to maps (enum bpf_cmd of linux/bpf.h); what becomes of
# these `tests/contract/proxy/test_ebpf_tables.py` tells.
LASTING = {
    6: "BPF_OBJ_PIN",
    8: "BPF_PROG_ATTACH",
    9: "BPF_PROG_DETACH",
    28: "BPF_LINK_CREATE",
    29: "BPF_LINK_UPDATE",
    34: "BPF_LINK_DETACH",
}
ANY = "any"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class _Call(ctypes.Structure):
    """struct ptrace_syscall_info, as of a call that begins."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("pointers", ctypes.c_uint64 * 2),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    ]


def main() -> None:
    """Serve until there are no more questions."""
    paths = Paths(Path(sys.argv[1]))
    todo: dict[str, Callable[[], object]] = {
        "sync": lambda: asyncio.run(_sync(paths)),
        "flush": lambda: list(flush(paths)),
    }
    for line in sys.stdin:
        what, name, number = line.split()
        print(*_killed(todo[what], name, int(number)), flush=True)


async def _sync(paths: Paths) -> None:
    from tests.netns.proxy.conftest import snapshot

    at = where(paths)
    path = EbpfDataPath(NftablesDataPath(), cgroup=at.cgroup, mount=at.mount, directory=at.directory)
    await path.sync(snapshot(flows.SERVICES, flows.SLICES))


def _killed(do: Callable[[], object], at: str, number: int) -> Iterator[str]:
    """Do it in a child, which is killed at this change, counted from 0; the changes it came to."""
    child = os.fork()
    if child == 0:
        _libc.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        do()
        os._exit(0)
    os.waitpid(child, 0)
    _libc.ptrace(SETOPTIONS, child, None, TRACE_SYSCALLS | TRACE_THREADS | END_WITH_US)
    _libc.ptrace(SYSCALL, child, None, None)
    count = 0
    while True:
        thread, status = os.waitpid(-1, WALL)
        if not os.WIFSTOPPED(status):
            if thread == child:
                return
            continue
        stopped = os.WSTOPSIG(status)
        if stopped == signal.SIGTRAP | 0x80 and (name := _begins(thread)):
            yield name
            if at in (name, ANY):
                if count == number:
                    os.kill(child, signal.SIGKILL)
                count += 1
        passed = 0 if stopped in (signal.SIGTRAP, signal.SIGTRAP | 0x80, signal.SIGSTOP) else stopped
        _libc.ptrace(SYSCALL, thread, None, passed)


def _begins(thread: int) -> str:
    """The change that a thread is about to make, or ""."""
    call = _Call()
    _libc.ptrace(GET_SYSCALL_INFO, thread, ctypes.sizeof(call), ctypes.byref(call))
    name = NUMBERS.get(call.number, "") if call.op == ENTRY else ""
    return LASTING.get(call.arguments[0], "") if name == "bpf" else name


class Killing:
    """Asks a process in a node's network namespace for processes to be killed there."""

    def __init__(self, netns: int, root: Path) -> None:
        command = ["nsenter", f"--net=/proc/self/fd/{netns}", sys.executable, "-m", __name__, str(root)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, pass_fds=[netns], stdin=pipe, stdout=pipe, text=True)

    def kill(self, what: str, at: str, number: int) -> list[str]:
        """``sync`` or ``flush``, killed at this change; the changes it came to, at the last of which it was killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {at} {number}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()


@contextmanager
def killing(netns: int, root: Path) -> Iterator[Killing]:
    made = Killing(netns, root)
    with made.process:
        yield made
        assert made.process.stdin is not None
        made.process.stdin.close()


if __name__ == "__main__":
    main()
