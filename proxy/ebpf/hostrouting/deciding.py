"""Whether packets between pods may pass the host's stack by. Pure.

Why it depends on other people's rules: what somebody has written into a chain that packets between pods meet is a wish
about them, and a data path that goes round it would break it without a word. Where nobody has, nothing is missed.
"""

from collections.abc import Iterable
from enum import StrEnum

from netplane.linux.nfnetlink import BaseChain

# The tables of netplane's parts: none of them has a wish about packets that go from pod to pod as they are.
OURS = frozenset(("inet", name) for name in ("netplane_cni", "netplane_proxy", "netplane_services"))
POD_LINKS = "np"  # what the CNI plugin's links begin with
# Where a packet from pod to pod comes by (enum nf_inet_hooks): prerouting, forward, postrouting.
ON_THE_WAY = {0: "prerouting", 2: "forward", 4: "postrouting"}


class HostRouting(StrEnum):
    """How packets between two pods of a node go; the words are Cilium's, whose users know them.

    ``bpf``: past the host's stack, whatever its tables say. ``legacy``: through it. ``auto``: ``bpf`` where nobody but
    netplane has rules on the way.
    """

    AUTO = "auto"
    BPF = "bpf"
    LEGACY = "legacy"


def in_the_way(chains: Iterable[BaseChain]) -> list[str]:
    """The chains of others, by name, that have a say in what pods send each other."""
    return [
        f"nft chain {chain.family} {chain.table} {chain.name}"
        for chain in chains
        if (chain.rules or chain.drops) and (chain.family, chain.table) not in OURS and _meets_pods(chain)
    ]


def _meets_pods(chain: BaseChain) -> bool:
    if chain.family == "netdev":
        return any(name.startswith(POD_LINKS) or name in ("*", "n*") for name in chain.devices)
    return chain.hook in ON_THE_WAY


def refusal(asked: HostRouting, others: Iterable[str]) -> str:
    """Why packets between pods are to go through the host's stack; "" where they need not."""
    if asked is HostRouting.BPF:
        return ""
    if asked is HostRouting.LEGACY:
        return "hostRouting is legacy"
    found = list(others)
    if not found:
        return ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0]}{more} may have a say in what pods send each other; hostRouting: bpf goes past it"
