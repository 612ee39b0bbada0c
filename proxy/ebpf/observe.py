"""What sockets of a node are told, for tools: read from the kernel's maps, with no proxy running.

Blocking; call it from a thread, in the node's mount namespace.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from netplane.config import Paths
from netplane.linux import bpf
from netplane.linux.bpf import Map
from proxy.ebpf import sockets
from proxy.ebpf.hostrouting.layout import pod_of
from proxy.ebpf.hostrouting.programs import pinned_at
from proxy.ebpf.layout import address_of
from proxy.ebpf.pins import Pins, missing_hooks
from proxy.ebpf.probe import where
from proxy.ebpf.routes import Route
from proxy.ebpf.tables import read
from proxy.model import Frontend, IPAddress


def routes(paths: Paths) -> dict[Frontend, Route] | None:
    """Where each frontend leads; None where no hooks are, so that sockets are told nothing. Raises KernelError."""
    with _pinned(paths) as maps:
        return read(maps) if maps is not None else None


def conversations(paths: Paths) -> list[dict[str, Any]]:
    """The connections of sockets that were told an endpoint, in the form of the other modes. Raises KernelError."""
    with _pinned(paths) as maps:
        return sockets.describe(maps, where(paths).cgroup) if maps is not None else []


@contextmanager
def _pinned(paths: Paths) -> Iterator[dict[str, Map] | None]:
    pins = Pins(paths.bpf_root)
    there = pins.directory.is_dir() and not missing_hooks(where(paths).cgroup)
    maps = pins.open_maps() if there else None
    try:
        yield maps
    finally:
        for one in (maps or {}).values():
            one.close()


def short_cuts(paths: Paths) -> set[IPAddress]:
    """The pods of this node that reach each other past the host's stack. Raises KernelError."""
    held = bpf.pinned_map(pinned_at(paths.bpf_root) / "pods")
    if held is None:
        return set()
    try:
        return {address_of(key) for key, value in held.items() if pod_of(value)[1]}
    finally:
        held.close()
