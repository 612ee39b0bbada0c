"""A node's cgroup and BPF file system for a test: its own, never the machine's, and gone afterwards."""

import array
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from netplane.config import Paths
from netplane.linux.cgroups import Cgroup, detect
from netplane.linux.orphans import own
from proxy.ebpf import build, pins
from proxy.ebpf.pins import Pins
from proxy.ebpf.probe import where

# Makes sockets on request: a socket belongs for ever to the cgroup of the process that made it, and to the network
# namespace that this one was in.
_MAKER = """
import array, ctypes, os, socket, sys
door = socket.socket(fileno=int(sys.argv[1]))
libc = ctypes.CDLL(None, use_errno=True)
while True:
    said, ancillary, _, _ = door.recvmsg(64, 64)
    if not said:
        break
    netns = array.array("i", ancillary[0][2])[0]
    assert libc.setns(netns, 0x40000000) == 0
    os.close(netns)
    family, kind = map(int, said.split())
    with socket.socket(family, kind) as made:
        rights = array.array("i", [made.fileno()])
        door.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
"""


@dataclass
class BpfPlace:
    """Where the ebpf data path of one node lives: its options, and sockets that are the node's."""

    paths: Paths
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _maker: tuple[subprocess.Popen[bytes], socket.socket] | None = field(default=None)

    @property
    def cgroup(self) -> Path:
        return where(self.paths).cgroup

    @property
    def mount(self) -> Path:
        return self.paths.bpf_mount

    @property
    def options(self) -> dict[str, Path]:
        """What ``EbpfDataPath`` is told."""
        return asdict(where(self.paths))

    @property
    def pins(self) -> Pins:
        return Pins(self.paths.bpf_root)

    def open(self, netns: int, family: int, kind: int) -> socket.socket:
        """A socket of a process in the node's cgroup, in a network namespace."""
        with self._turn:
            return self._made(netns, family, kind)

    def _made(self, netns: int, family: int, kind: int) -> socket.socket:
        if self._maker is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            join = f'echo 0 > {self.cgroup}/cgroup.procs; exec "$@"'
            words = [sys.executable, "-c", _MAKER, str(theirs.fileno())]
            process = subprocess.Popen(["/bin/sh", "-ec", join, "sh", *words], pass_fds=[theirs.fileno()])
            theirs.close()
            self._maker = (process, ours)
        door = self._maker[1]
        rights: Any = array.array("i", [netns])
        door.sendmsg(
            [f"{int(family)} {int(kind)}".encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        )
        _, ancillary, _, _ = door.recvmsg(1, 64)
        return socket.socket(fileno=array.array("i", ancillary[0][2])[0])

    def close(self) -> None:
        if self._maker is not None:
            process, door = self._maker
            door.close()
            process.wait(5)


@contextmanager
def bpf_place() -> Iterator[BpfPlace]:
    """A cgroup (v2) and a place for a BPF file system, both new."""
    build.build()
    directory = Path(tempfile.mkdtemp(prefix="np-bpf-"))
    place = BpfPlace(Paths(directory))
    group = Cgroup(detect(), PurePosixPath(place.paths.cgroup_name))
    own(group)
    try:
        yield place
    finally:
        place.close()
        with contextlib.suppress(OSError):
            pins.remove(place.pins)
        pins.unmount(place.mount)
        group.remove()
        shutil.rmtree(directory)
