"""The programs at pods' links and their maps: loaded, pinned, attached, and taken away without a trace. Blocking.

As with the hooks at sockets, everything is pinned or hangs on a link, so that it works without a process. A newer
netplane with the same layout goes on with the maps; one with another layout empties the old ones before it attaches
its own, so that no packet is judged by half of each.
"""

import os
from pathlib import Path

from netplane.errors import KernelError
from netplane.linux import bpf, tc
from proxy.ebpf.hostrouting import links
from proxy.ebpf.objects import PODS
from proxy.ebpf.pins import make_directory, remove_directory

MAPS = ("pods", "links", "translated", "overflow")
PREFIX = "pods-"  # of the directories of pins, one a layout
_SCHED_CLS, _DEVMAP_HASH, _REDIRECT_PEER = 3, 25, 155  # linux/bpf.h


class Programs:
    """What is loaded, by descriptors: the maps by name, and a program for each hook."""

    def __init__(self, directory: Path) -> None:
        """Load them, with the maps pinned below ``directory``. Raises KernelError naming what the kernel lacks."""
        check()
        mine = pinned_at(directory)
        for other in directory.glob(f"{PREFIX}*"):
            if other != mine:
                _empty(other / "pods")
        make_directory(mine)
        with bpf.loaded(PODS.built(), constants={}, pinned={name: mine / name for name in MAPS}) as made:
            self.maps = {name: made.map(name) for name in MAPS}
            self._programs = {place: os.dup(made.program(place.name)) for place in links.PLACES}

    def close(self) -> None:
        """Let go of all descriptors; what is attached and pinned stays."""
        for one in self.maps.values():
            one.close()
        for program in self._programs.values():
            os.close(program)
        self._programs.clear()

    def attach(self, link: int) -> bool:
        """Run them at a link, in place of what runs there of ours. False where it has gone. Raises KernelError."""
        return all(tc.attach(link, place, program) for place, program in self._programs.items())


def pinned_at(directory: Path) -> Path:
    """Where the maps of this layout are."""
    return directory / f"{PREFIX}{PODS.layout}"


def check() -> None:
    """Raises KernelError naming what the kernel lacks for this."""
    lacking = [] if bpf.has_program_type(_SCHED_CLS) else ["BPF programs at links (CONFIG_NET_CLS_ACT)"]
    lacking += [] if bpf.has_map_type(_DEVMAP_HASH) else ["BPF_MAP_TYPE_DEVMAP_HASH"]
    lacking += [] if bpf.has_helper(_SCHED_CLS, _REDIRECT_PEER) else ["bpf_redirect_peer"]
    if lacking:
        raise KernelError(f"the kernel has no {', '.join(lacking)}")


def detach(link: int) -> None:
    """Nothing of ours runs at a link any more."""
    for place in reversed(links.PLACES):
        tc.detach(link, place)


def remove(directory: Path) -> None:
    """Everything, from every link and from below ``directory``; what is not there is fine. Raises KernelError."""
    kept = list(directory.glob(f"{PREFIX}*"))
    for one in kept:
        _empty(one / "pods")  # first, so that nothing is handed over while half of the links have programs
    for link in links.touched():
        detach(link)
    for one in kept:
        remove_directory(one)


def remove_others(directory: Path) -> None:
    """The maps of other layouts, which no program uses any more."""
    for other in directory.glob(f"{PREFIX}*"):
        if other != pinned_at(directory):
            remove_directory(other)


def _empty(path: Path) -> None:
    held = bpf.pinned_map(path)
    if held is not None:
        for key, _ in list(held.items()):
            held.delete(key)
        held.close()
