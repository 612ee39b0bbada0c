"""libbpf.so.1 as ctypes sees it: signatures, the structs it fills, and what it says.

Source: bpf/libbpf.h and bpf/bpf.h of libbpf 1.1 to 1.5; linux/bpf.h (bpf_map_info, bpf_prog_info).
"""

import ctypes
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from netplane.errors import KernelError

WARN = 0  # LIBBPF_WARN
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_P, _I, _U32, _U64, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p

# Function → result, arguments.
SIGNATURES: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
    "bpf_object__open_file": (_P, (_S, _P)),
    "bpf_object__load": (_I, (_P,)),
    "bpf_object__close": (None, (_P,)),
    "bpf_object__find_map_by_name": (_P, (_P, _S)),
    "bpf_object__find_program_by_name": (_P, (_P, _S)),
    "bpf_object__next_map": (_P, (_P, _P)),
    "bpf_object__btf": (_P, (_P,)),
    "bpf_map__fd": (_I, (_P,)),
    "bpf_map__name": (_S, (_P,)),
    "bpf_map__set_pin_path": (_I, (_P, _S)),
    "bpf_map__reuse_fd": (_I, (_P, _I)),
    "bpf_map__initial_value": (_P, (_P, ctypes.POINTER(ctypes.c_size_t))),
    "bpf_program__fd": (_I, (_P,)),
    "bpf_map_lookup_elem": (_I, (_I, _S, _P)),
    "bpf_map_update_elem": (_I, (_I, _S, _S, _U64)),
    "bpf_map_delete_elem": (_I, (_I, _S)),
    "bpf_map_get_next_key": (_I, (_I, _S, _P)),
    "bpf_map_update_batch": (_I, (_I, _S, _S, _P, _P)),
    "bpf_obj_get": (_I, (_S,)),
    "bpf_obj_pin": (_I, (_I, _S)),
    "bpf_obj_get_info_by_fd": (_I, (_I, _P, _P)),
    "bpf_link_create": (_I, (_I, _I, _I, _P)),
    "bpf_link_detach": (_I, (_I,)),
    "bpf_link_update": (_I, (_I, _I, _P)),
    "bpf_prog_attach_opts": (_I, (_I, _I, _I, _P)),
    "bpf_prog_detach2": (_I, (_I, _I, _I)),
    "bpf_prog_query": (_I, (_I, _I, _U32, _P, _P, _P)),
    "bpf_prog_get_fd_by_id": (_I, (_U32,)),
    "libbpf_num_possible_cpus": (_I, ()),
    "libbpf_probe_bpf_helper": (_I, (_I, _I, _P)),
    "libbpf_probe_bpf_prog_type": (_I, (_I, _P)),
    "libbpf_probe_bpf_map_type": (_I, (_I, _P)),
    "libbpf_set_print": (_P, (_P,)),
    "bpf_tc_hook_create": (_I, (_P,)),
    "bpf_tc_hook_destroy": (_I, (_P,)),
    "bpf_tc_attach": (_I, (_P, _P)),
    "bpf_tc_detach": (_I, (_P, _P)),
    "btf__find_by_name_kind": (ctypes.c_int32, (_P, _S, _U32)),
    "btf__type_by_id": (_P, (_P, _U32)),
    "btf__name_by_offset": (_S, (_P, _U32)),
}


class MapInfo(ctypes.Structure):
    """struct bpf_map_info, as far as it is needed."""

    _fields_ = [
        *((name, _U32) for name in ("type", "id", "key_size", "value_size", "max_entries", "map_flags")),
        ("name", ctypes.c_char * 16),
    ]


class ProgramInfo(ctypes.Structure):
    """struct bpf_prog_info, as far as it is needed."""

    _fields_ = [
        ("type", _U32),
        ("id", _U32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", _U32),
        ("xlated_prog_len", _U32),
        ("jited_prog_insns", _U64),
        ("xlated_prog_insns", _U64),
        ("load_time", _U64),
        ("created_by_uid", _U32),
        ("nr_map_ids", _U32),
        ("map_ids", _U64),
        ("name", ctypes.c_char * 16),
    ]


class Library:
    """The loaded library. ``call``: its functions, with their signatures."""

    def __init__(self, call: ctypes.CDLL) -> None:
        self.call = call
        self._turn = threading.Lock()  # what libbpf says goes to one place a process

    def cpus(self) -> int:
        """How many values a per-processor entry has."""
        return int(self.call.libbpf_num_possible_cpus())

    def info(self, fd: int, into: ctypes.Structure) -> None:
        """Fill a struct of information about whatever the descriptor is. Raises KernelError."""
        size = ctypes.c_uint32(ctypes.sizeof(into))
        code = self.call.bpf_obj_get_info_by_fd(fd, ctypes.byref(into), ctypes.byref(size))
        if code < 0:
            raise KernelError(f"cannot ask about a BPF object: {os.strerror(-code)}")

    def set_constants(self, handle: int, constants: Mapping[str, bytes]) -> None:
        """Before loading: write `.rodata` variables, found by the object's own BTF. Raises KernelError."""
        if not constants:
            return
        section = self._section(handle, ".rodata")
        size = ctypes.c_size_t()
        start = self.call.bpf_map__initial_value(section, ctypes.byref(size))
        places = _variables(self.call, self.call.bpf_object__btf(handle), ".rodata")
        for name, value in constants.items():
            offset, length = places[name]
            if length != len(value):
                raise KernelError(
                    f"cannot set {name}: the object has {length} bytes for it, not {len(value)}"
                )
            ctypes.memmove(start + offset, value, length)

    def _section(self, handle: int, suffix: str) -> int:
        found = self.call.bpf_object__next_map(handle, None)
        while found:
            if self.call.bpf_map__name(found).decode().endswith(suffix):
                return int(found)
            found = self.call.bpf_object__next_map(handle, found)
        raise KernelError(f"cannot set constants: the BPF object has no section {suffix}")

    @contextmanager
    def said(self) -> Iterator[list[str]]:
        """Collect libbpf's warnings, which include the verifier's log, instead of printing them."""
        words: list[str] = []
        libc = ctypes.CDLL(None)

        def take(level: int, form: bytes, arguments: int | None) -> int:
            if level == WARN:
                buffer = ctypes.create_string_buffer(65536)
                libc.vsnprintf(buffer, ctypes.c_size_t(len(buffer)), form, ctypes.c_void_p(arguments))
                words.append(buffer.value.decode(errors="replace"))
            return 0

        callback = _PRINT(take)
        with self._turn:
            self.call.libbpf_set_print(callback)
            try:
                yield words
            finally:
                self.call.libbpf_set_print(_PRINT(0))


@cache
def library() -> Library:
    """libbpf, once a process. Raises KernelError where it is not installed."""
    try:
        call = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise KernelError("cannot load libbpf.so.1", "Install the package libbpf1") from None
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(call, name)
        function.restype, function.argtypes = result, arguments
    return Library(call)


def explained(words: list[str], number: int) -> str:
    """The reason that helps: the verifier's last complaint, else libbpf's, else the error's own text."""
    lines = [line.strip() for text in words for line in text.splitlines() if line.strip()]
    telling = [
        line for line in lines if not line.startswith(("libbpf: prog", "processed", "--", "libbpf: failed"))
    ]
    reason = (telling or lines or [""])[-1].removeprefix("libbpf: ")
    return f"{reason} ({os.strerror(number)})" if reason else os.strerror(number)


class _BtfType(ctypes.Structure):
    """struct btf_type: name, kind and number of members, size."""

    _fields_ = [("name_off", _U32), ("info", _U32), ("size", _U32)]


def members(call: Any, btf: int, kind: int, name: str) -> tuple[int, dict[str, tuple[int, int]]]:
    """Of a struct (kind 4) its size and each member's (bit offset, type); Documentation/bpf/btf.rst."""
    number = call.btf__find_by_name_kind(btf, name.encode(), kind)
    if number < 0:
        raise KernelError(f"cannot find struct {name} in the object's BTF")
    start = call.btf__type_by_id(btf, number)
    head = _BtfType.from_address(start)
    found: dict[str, tuple[int, int]] = {}
    for index in range(head.info & 0xFFFF):
        entry = (_U32 * 3).from_address(start + ctypes.sizeof(_BtfType) + 12 * index)
        found[call.btf__name_by_offset(btf, entry[0]).decode()] = (entry[2], entry[1])
    return head.size, found


def _variables(call: Any, btf: int, section: str) -> dict[str, tuple[int, int]]:
    """Of a data section (BTF_KIND_DATASEC, 15) each variable's (offset, size)."""
    number = call.btf__find_by_name_kind(btf, section.encode(), 15)
    start = call.btf__type_by_id(btf, number)
    head = _BtfType.from_address(start)
    found: dict[str, tuple[int, int]] = {}
    for index in range(head.info & 0xFFFF):
        kind, offset, size = (_U32 * 3).from_address(start + ctypes.sizeof(_BtfType) + 12 * index)
        variable = _BtfType.from_address(call.btf__type_by_id(btf, kind))
        found[call.btf__name_by_offset(btf, variable.name_off).decode()] = (offset, size)
    return found
