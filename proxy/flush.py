"""Every trace of the proxy in this network namespace's kernel, whatever its mode was, taken away.

Not for a node that serves: connections that go through Services end. Blocking.
"""

from collections.abc import Iterator

from netplane.config import Paths
from netplane.errors import KernelError
from netplane.linux import conntrack, nft
from netplane.linux.nfnetlink import Tables
from proxy import routes
from proxy.ebpf import datapath as hooks
from proxy.ebpf.hostrouting import links
from proxy.nftables import leaving
from proxy.nftables.names import FAMILY, TABLE
from proxy.userspace import plumbing, ruleset


def flush(paths: Paths) -> Iterator[str]:
    """Take it away, and say what; nothing is said of what was not there. Raises KernelError naming the step."""
    pinned, at_pods = paths.bpf_root.is_dir(), _links_with_programs()
    if pinned or at_pods:
        hooks.remove(paths.bpf_mount, paths.bpf_root)
    elif hooks.unmount(paths.bpf_mount):  # whoever mounted it was killed before there were any pins
        yield f"the BPF file system at {paths.bpf_mount}"
    if pinned:
        yield f"the hooks at this node's sockets, pinned in {paths.bpf_root}"
    if at_pods:
        yield f"the programs at {at_pods} links of pods"
    with Tables() as tables:
        relayed = tables.has_table(ruleset.FAMILY, ruleset.TABLE)
        translated = tables.has_table(FAMILY, TABLE)
    if translated:
        called = leaving.called()
        nft.delete_table(FAMILY, TABLE)
        yield f"nft table {FAMILY} {TABLE}"
        ended = conntrack.forget_where(called.has, conntrack.TRANSLATED)
        if ended:
            yield f"{ended} translated connections"
    networks = routes.routed()
    plumbing.remove()
    if relayed:
        yield f"nft table {ruleset.FAMILY} {ruleset.TABLE}, its rules and routes"
    if networks:
        yield f"local routes of {', '.join(str(network) for network in networks)}"


def _links_with_programs() -> int:
    """How many links have any of ours: they hang there without a pin. Without libbpf there can be none."""
    try:
        return len(links.touched())
    except KernelError:
        return 0
