"""clone(2) as the workers need it: a child that shares its parent's table of descriptors, or its parent's parent.

Why not ``os.fork``: it can do neither. The interpreter is not told of the child either (``PyOS_AfterFork_Child``):
what it would mend are the locks that other threads held, and mending costs each child 0.7 MiB, for a page is no longer
shared once anything on it is used. So this is safe only in a process that has never had a second thread, and the child
makes the same random choices as its parent until ``random.seed`` is called.
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
    """As ``os.fork``, but parent and child have one table of descriptors. Raises OSError."""
    return _clone(CLONE_FILES, signal.SIGCHLD)


def clone_sibling() -> int:
    """As ``os.fork``, but the child is a child of this process's parent. Raises OSError."""
    return _clone(CLONE_PARENT, 0)


def name_process(name: bytes) -> None:
    """What ps(1) shows with -o comm; 15 bytes."""
    _libc.prctl(PR_SET_NAME, name)


def _clone(flags: int, exit_signal: int) -> int:
    arguments = _CloneArgs(flags=flags, exit_signal=exit_signal)
    pid = int(_libc.syscall(SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)))
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "clone3")
    return pid
