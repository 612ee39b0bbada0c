"""Every trace of the proxy in this network namespace's kernel, whatever its mode was, taken away.

Not for a node that serves: connections that go through Services end. Blocking.
"""

from collections.abc import Iterator

from netplane.config import Paths
from netplane.linux import conntrack, nft
from netplane.linux.nfnetlink import Tables
from proxy import routes
from proxy.ebpf import datapath as hooks
from proxy.nftables import observe
from proxy.nftables.names import FAMILY, TABLE
from proxy.userspace import plumbing, ruleset


def flush(paths: Paths) -> Iterator[str]:
    """Take it away, and say what; nothing is said of what was not there. Raises KernelError naming the step."""
    if paths.bpf_root.is_dir():
        hooks.remove(paths.bpf_mount, paths.bpf_root)
        yield f"the hooks at this node's sockets, pinned in {paths.bpf_root}"
    with Tables() as tables:
        relayed = tables.has_table(ruleset.FAMILY, ruleset.TABLE)
        translated = tables.has_table(FAMILY, TABLE)
    if translated:
        called = {(f.address.packed if int(f.address) else b"", f.port) for f in observe.targets()}
        nft.delete_table(FAMILY, TABLE)
        yield f"nft table {FAMILY} {TABLE}"
        ended = conntrack.forget_where(
            lambda flow: (
                (flow.called.destination, flow.called.destination_port) in called
                or (b"", flow.called.destination_port) in called
            ),
            translated=True,
        )
        if ended:
            yield f"{ended} translated connections"
    networks = routes.routed()
    plumbing.remove()
    if relayed:
        yield f"nft table {ruleset.FAMILY} {ruleset.TABLE}, its rules and routes"
    if networks:
        yield f"local routes of {', '.join(str(network) for network in networks)}"
