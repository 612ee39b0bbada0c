"""BPF objects, maps and links by libbpf, the kernel community's own library, through ctypes.

Why no Python binding: those there are bring a compiler or a verifier's worth of dependencies; what netplane needs
of libbpf is a dozen functions. Everything here is a thin, typed skin: keys and values are bytes, whose layout the
caller knows. Errors are KernelError with libbpf's or the verifier's last words.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from netplane.errors import KernelError
from netplane.linux.bpf_library import Library, MapInfo, ProgramInfo, explained, library

ANY, NOEXIST, EXIST = 0, 1, 2  # BPF_ANY, ... of bpf(2)
PERCPU_TYPES = frozenset({5, 6, 10})  # BPF_MAP_TYPE_PERCPU_HASH, _PERCPU_ARRAY, _LRU_PERCPU_HASH
BATCH = 4096  # entries a system call
_NO_SUCH_COMMAND = 524  # ENOTSUPP: this map type knows no batches


class Map:
    """One map, by a descriptor of ours."""

    def __init__(self, fd: int, name: str = "") -> None:
        self._library: Library = library()
        self.fd = fd
        info = MapInfo()
        self._library.info(fd, info)
        self.name = name or info.name.decode()
        self.kind, self.key_size, self.value_size = info.type, info.key_size, info.value_size
        self.max_entries = info.max_entries
        self._copies = self._library.cpus() if info.type in PERCPU_TYPES else 1
        self.stored = -(-info.value_size // 8) * 8 * self._copies if self._copies > 1 else info.value_size

    def close(self) -> None:
        """Let go of our descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def get(self, key: bytes) -> bytes | None:
        """A value, or None. Of a map with a value a processor: all of them, one after the other."""
        # A buffer a call: ctypes lets other threads run meanwhile, and they may read this map as well.
        buffer = ctypes.create_string_buffer(self.stored)
        code = self._library.call.bpf_map_lookup_elem(self.fd, key, buffer)
        if code == -errno.ENOENT:
            return None
        if code < 0:
            raise self._error("read", code)
        return buffer.raw

    def put(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Write one entry."""
        code = self._library.call.bpf_map_update_elem(self.fd, key, value, flags)
        if code < 0:
            raise self._error("write to", code)

    def put_all(self, entries: Mapping[bytes, bytes]) -> None:
        """Write many, a few thousand a system call."""
        keys, values = list(entries), list(entries.values())
        for start in range(0, len(keys), BATCH):
            chunk = slice(start, start + BATCH)
            count = ctypes.c_uint32(len(keys[chunk]))
            code = self._library.call.bpf_map_update_batch(
                self.fd, b"".join(keys[chunk]), b"".join(values[chunk]), ctypes.byref(count), None
            )
            if code < 0:
                raise self._error("write to", code)

    def delete(self, key: bytes) -> bool:
        """Remove one entry; False where there was none."""
        code = self._library.call.bpf_map_delete_elem(self.fd, key)
        if code < 0 and code != -errno.ENOENT:
            raise self._error("delete from", code)
        return bool(code == 0)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries. One that comes or goes meanwhile may or may not be among them."""
        key = ctypes.create_string_buffer(self.key_size)
        previous: bytes | None = None
        while True:
            code = self._library.call.bpf_map_get_next_key(self.fd, previous, key)
            if code == -errno.ENOENT:
                return
            if code < 0:
                raise self._error("read", code)
            previous = key.raw
            value = self.get(previous)
            if value is not None:
                yield previous, value

    def mapped(self) -> mmap.mmap:
        """An array's memory itself (its map must be BPF_F_MMAPABLE): stores are seen by programs at once."""
        length = -(-self.max_entries * self.value_size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            return mmap.mmap(self.fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise KernelError(f"cannot map BPF map {self.name}: {error.strerror}") from None

    def _error(self, action: str, code: int) -> KernelError:
        if -code == errno.E2BIG:
            return KernelError(
                f"cannot {action} BPF map {self.name}: its {self.max_entries} entries are full"
            )
        return KernelError(f"cannot {action} BPF map {self.name}: {os.strerror(-code)}")


class Object:
    """A compiled object that has been loaded: its maps and programs by name, by descriptors of libbpf's."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._call = library().call

    def map(self, name: str) -> Map:
        """A map, by a descriptor that outlives this object."""
        found = self._call.bpf_object__find_map_by_name(self._handle, name.encode())
        return Map(os.dup(self._call.bpf_map__fd(found)), name)

    def program(self, name: str) -> int:
        """A program's descriptor, which lives as long as this object."""
        found = self._call.bpf_object__find_program_by_name(self._handle, name.encode())
        return int(self._call.bpf_program__fd(found))


@contextmanager
def loaded(
    path: Path, *, constants: Mapping[str, bytes], pinned: Mapping[str, Path] | None = None
) -> Iterator[Object]:
    """Load an object into the kernel. ``constants``: bytes by variable name that replace those of `.rodata`.

    ``pinned``: where each map is, or is to be, pinned; one that is there is used. Raises KernelError.
    """
    lib = library()
    with lib.said() as words:
        handle = lib.call.bpf_object__open_file(str(path).encode(), None)
        if not handle:
            raise KernelError(f"cannot open BPF object {path}: {explained(words, ctypes.get_errno())}")
        try:
            for name, where in (pinned or {}).items():
                _pin_or_use(handle, name, where)
            lib.set_constants(handle, constants)
            code = lib.call.bpf_object__load(handle)
            if code < 0:
                raise KernelError(f"cannot load BPF programs of {path.name}: {explained(words, -code)}")
        except BaseException:
            lib.call.bpf_object__close(handle)
            raise
    try:
        yield Object(handle)
    finally:
        lib.call.bpf_object__close(handle)


def _pin_or_use(handle: int, name: str, where: Path) -> None:
    """Before loading: a map is the one that is pinned, which is not compared (the kernel adds flags to some); else it
    will be pinned there.
    """
    call = library().call
    found = call.bpf_object__find_map_by_name(handle, name.encode())
    there = opened(where) if found else None
    if there is None:
        code = call.bpf_map__set_pin_path(found, str(where).encode()) if found else -errno.ENOENT
    else:
        code = call.bpf_map__reuse_fd(found, there)
        os.close(there)
    if code < 0:
        raise KernelError(f"cannot pin BPF map {name} at {where}: {os.strerror(-code)}")


def pinned_map(path: Path) -> Map | None:
    """The map that is pinned at a path, or None."""
    fd = opened(path)
    return None if fd is None else Map(fd, path.name)


def opened(path: Path) -> int | None:
    """A descriptor of whatever is pinned at a path, or None. The caller closes it."""
    fd = library().call.bpf_obj_get(str(path).encode())
    if fd >= 0:
        return int(fd)
    if fd == -errno.ENOENT:
        return None
    raise KernelError(f"cannot open what is pinned at {path}: {os.strerror(-fd)}")


def attach_to_cgroup(program: int, cgroup: int, hook: int, pin: Path) -> None:
    """A link, pinned: it stays until it is unpinned. Where a link is pinned already, its program is replaced."""
    call = library().call
    link = opened(pin)
    if link is not None:
        try:
            code = call.bpf_link_update(link, program, None)
            if code == 0:
                return
            if -code != errno.ENOLINK:  # its cgroup has gone: a new link is needed
                raise KernelError(f"cannot replace the program of {pin}: {os.strerror(-code)}")
            pin.unlink()
        finally:
            os.close(link)
    made = call.bpf_link_create(program, cgroup, hook, None)
    if made < 0:
        raise KernelError(f"cannot attach {pin.name} to the cgroup: {os.strerror(-made)}")
    try:
        code = call.bpf_obj_pin(made, str(pin).encode())
        if code < 0:
            raise KernelError(f"cannot pin {pin}: {os.strerror(-code)}")
    finally:
        os.close(made)


def detach(pin: Path) -> None:
    """End a pinned link now, and unpin it; unpinning alone lets the kernel end it when it likes."""
    link = opened(pin)
    if link is None:
        return
    try:
        library().call.bpf_link_detach(link)
    finally:
        os.close(link)
    pin.unlink()


def attached(target: int, hook: int) -> list[int]:
    """Ids of the programs that are attached at a hook of a cgroup itself (a descriptor), or of a link (its index).

    Raises KernelError.
    """
    ids = (ctypes.c_uint32 * 64)()
    count = ctypes.c_uint32(64)
    code = library().call.bpf_prog_query(target, hook, 0, None, ids, ctypes.byref(count))
    if code < 0:
        raise KernelError(f"cannot ask which BPF programs are attached: {os.strerror(-code)}")
    return list(ids[: count.value])


def program_name(program: int) -> str:
    """The name (its first 15 characters) of a program by its id; empty where it has gone."""
    lib = library()
    fd = lib.call.bpf_prog_get_fd_by_id(program)
    if fd < 0:
        return ""
    try:
        info = ProgramInfo()
        lib.info(fd, info)
        return str(info.name.decode())
    finally:
        os.close(fd)


def has_helper(program_type: int, helper: int) -> bool:
    """Whether programs of a type may call a helper (numbers of linux/bpf.h)."""
    return bool(library().call.libbpf_probe_bpf_helper(program_type, helper, None) == 1)


def has_program_type(program_type: int) -> bool:
    """Whether the kernel has a type of programs."""
    return bool(library().call.libbpf_probe_bpf_prog_type(program_type, None) == 1)


def has_map_type(map_type: int) -> bool:
    """Whether the kernel has a type of maps."""
    return bool(library().call.libbpf_probe_bpf_map_type(map_type, None) == 1)


def unpin(paths: Sequence[Path]) -> None:
    """Remove pins; those that are not there are fine."""
    for path in paths:
        path.unlink(missing_ok=True)
