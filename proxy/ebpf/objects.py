"""The compiled BPF objects: what each is made of, and whether it is there.

Why a stamp beside each: an object that was built from other sources is refused, so nobody wonders why an edit has no
effect. The maps of an object are pinned under the name of their layout, which is what its headers say.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netplane.errors import KernelError

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Source:
    """One C file and the headers that lay out its maps; ``root`` has them in `bpf/`, and what is built in `build/`."""

    name: str
    headers: tuple[str, ...]
    root: Path = HERE

    @property
    def file(self) -> Path:
        """The C file."""
        return self.root / f"bpf/{self.name}.bpf.c"

    @property
    def object(self) -> Path:
        """What clang makes of it."""
        return self.root / f"build/{self.name}.bpf.o"

    @property
    def stamp(self) -> Path:
        """What it was made of."""
        return self.root / f"build/{self.name}.sha256"

    @property
    def layout(self) -> str:
        """What tells one layout of the maps from another."""
        return _digest(self.root / "bpf" / header for header in self.headers)[:12]

    @property
    def digest(self) -> str:
        """What tells one state of the sources from another."""
        return _digest((*(self.root / "bpf" / header for header in self.headers), self.file))

    def built(self) -> Path:
        """The object, if it was built from these very sources. Raises KernelError saying how to build it."""
        if not self.object.exists():
            raise KernelError(
                "cannot use ebpf mode: its programs are not built",
                "Install clang and libbpf-dev, then ./dev setup",
            )
        if not self.stamp.exists() or self.stamp.read_text().strip() != self.digest:
            raise KernelError(
                f"cannot use ebpf mode: {self.object.name} was built from other sources", "Run ./dev setup"
            )
        return self.object


SOCKETS = Source("sockets", ("address.h", "maps.h"))
PODS = Source("pods", ("address.h", "pods.h"))


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
