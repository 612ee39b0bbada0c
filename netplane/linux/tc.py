"""BPF programs at a link's two doors, as they are asked before the host's stack and after it.

Two kinds: tcx (Linux 6.6) if there is one, else a filter of a clsact. Making a clsact takes the link's queue away for a
moment (qdisc_graft, dev_deactivate), and with it a few packets; tcx takes nothing. Either kind goes with its link.
Works on the calling thread's network namespace.
"""

import ctypes
import errno
import os
from dataclasses import dataclass

from netplane.errors import KernelError
from netplane.linux.bpf import attached, program_name
from netplane.linux.bpf_library import library
from netplane.linux.rtmessages import EGRESS, INGRESS, filters

TCX = {INGRESS: 46, EGRESS: 47}  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
_CLASSIC = {INGRESS: 1, EGRESS: 2}  # enum bpf_tc_attach_point
_WHOLE = 3
_REPLACE_FILTER, _REPLACE = 1, 4  # BPF_TC_F_REPLACE, BPF_F_REPLACE


class _Hook(ctypes.Structure):
    """struct bpf_tc_hook of bpf/libbpf.h."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    ]


class _Filter(ctypes.Structure):
    """struct bpf_tc_opts of bpf/libbpf.h."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        *((name, ctypes.c_uint32) for name in ("flags", "prog_id", "handle", "priority")),
    ]


class _Attachment(ctypes.Structure):
    """struct bpf_prog_attach_opts of bpf/bpf.h."""

    _fields_ = [("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("replace_prog_fd", ctypes.c_int)]


@dataclass(frozen=True, slots=True)
class Place:
    """What tells a program of ours at a hook from others: its name (15 characters at most), and a filter's numbers."""

    hook: int
    name: str
    handle: int
    priority: int


def attach(link: int, place: Place, program: int) -> bool:
    """Run a program (a descriptor), instead of the one that was there of ours. False where the link has gone.

    Raises KernelError naming what the kernel lacks.
    """
    lib = library()
    with lib.said():
        if _by_tcx(place.hook):
            old = next((one for one in _tcx(link, place.hook) if program_name(one) == place.name), None)
            code = _attach_tcx(link, place, program, old)
            return True if code >= 0 else _failed(code, "a BPF program (tcx)")
        at = _Hook(ctypes.sizeof(_Hook), link, _WHOLE)
        code = lib.call.bpf_tc_hook_create(ctypes.byref(at))
        if code < 0 and code != -errno.EEXIST:
            return _failed(code, "clsact (CONFIG_NET_SCH_INGRESS)")
        at.attach_point = _CLASSIC[place.hook]
        options = _Filter(ctypes.sizeof(_Filter), program, _REPLACE_FILTER, 0, place.handle, place.priority)
        code = lib.call.bpf_tc_attach(ctypes.byref(at), ctypes.byref(options))
        return True if code >= 0 else _failed(code, "a BPF filter (CONFIG_NET_CLS_BPF)")


def detach(link: int, place: Place) -> None:
    """Take our program away, and a clsact that has nothing any more. What is gone is fine."""
    lib = library()
    with lib.said():
        for number in _tcx(link, place.hook):
            if program_name(number) == place.name:
                program = lib.call.bpf_prog_get_fd_by_id(number)
                if program >= 0:  # else it has gone by itself meanwhile
                    lib.call.bpf_prog_detach2(program, link, TCX[place.hook])
                    os.close(program)
        if not any(name.startswith(place.name) for name in filters(link, place.hook)):
            return
        at = _Hook(ctypes.sizeof(_Hook), link, _CLASSIC[place.hook])
        options = _Filter(ctypes.sizeof(_Filter), handle=place.handle, priority=place.priority)
        lib.call.bpf_tc_detach(ctypes.byref(at), ctypes.byref(options))
        if not any(filters(link, hook) for hook in _CLASSIC):
            at.attach_point = _WHOLE
            lib.call.bpf_tc_hook_destroy(ctypes.byref(at))


def programs(link: int, hook: int, *, has_clsact: bool = True) -> set[str]:
    """What is asked at a hook of a link, of either kind: programs by name (without the number that libbpf gives a
    filter, ``name:[id]``), other filters by kind. Raises KernelError.
    """
    found = {program_name(number) for number in _tcx(link, hook)}
    return found | {name.partition(":")[0] for name in filters(link, hook)} if has_clsact else found


def _by_tcx(hook: int) -> bool:
    """Whether the kernel knows tcx: it then answers for a link that every namespace has."""
    try:
        attached(1, TCX[hook])
    except KernelError:
        return False
    return True


def _tcx(link: int, hook: int) -> list[int]:
    try:
        return attached(link, TCX[hook])
    except KernelError:
        return []  # the link has gone, or the kernel has no tcx


def _attach_tcx(link: int, place: Place, program: int, old: int | None) -> int:
    call = library().call
    there = call.bpf_prog_get_fd_by_id(old) if old is not None else -1
    try:
        options = _Attachment(ctypes.sizeof(_Attachment), _REPLACE if there >= 0 else 0, max(there, 0))
        return int(call.bpf_prog_attach_opts(program, link, TCX[place.hook], ctypes.byref(options)))
    finally:
        if there >= 0:
            os.close(there)


def _failed(code: int, what: str) -> bool:
    if -code == errno.ENODEV:
        return False
    raise KernelError(f"cannot attach {what} to a pod's link: {os.strerror(-code)}")
