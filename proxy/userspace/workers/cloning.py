"""clone(2) as the workers need it: a child that shares its parent's table of descriptors, or its parent's parent.

Why not ``os.fork``: it can do neither.
"""

import ctypes
import os
import signal

CLONE_FILES, CLONE_PARENT = 0x400, 0x8000  # linux/sched.h
SYS_CLONE3 = 435  # the same number on every architecture (Linux 5.3)
PR_SET_NAME = 15  # linux/prctl.h

_libc = ctypes.PyDLL(None, use_errno=True)


class _CloneArgs(ctypes.Structure):
    """``struct clone_args`` (clone(2)); all fields but two stay zero."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ["flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"]
    ]


def clone_with_table() -> int:
    """As ``os.fork``, but parent and child have one table of descriptors. Raises OSError.

    The child's interpreter is told as ``os.fork`` tells it, for it will have a loop and threads; the parent's is not,
    for it has none. Safe only where the process has no other thread.
    """
    pid, number = _clone(CLONE_FILES, signal.SIGCHLD)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    elif pid < 0:
        raise OSError(number, os.strerror(number), "clone3")
    return pid


def clone_sibling() -> int:
    """As ``os.fork``, but the child is a child of this process's parent. Raises OSError.

    The interpreter is told nothing, for what it would mend (locks of other threads, most of all) costs the child
    0.6 MiB of pages: safe only where no other thread was ever begun, and for a child that begins none.
    """
    pid, number = _clone(CLONE_PARENT, 0)
    if pid < 0:
        raise OSError(number, os.strerror(number), "clone3")
    return pid


def name_process(name: bytes) -> None:
    """What ps(1) shows with -o comm; 15 bytes."""
    _libc.prctl(PR_SET_NAME, name)


def _clone(flags: int, exit_signal: int) -> tuple[int, int]:
    """The child's pid, or below zero and the error's number."""
    arguments = _CloneArgs(flags=flags, exit_signal=exit_signal)
    pid = int(_libc.syscall(SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)))
    return pid, ctypes.get_errno()
