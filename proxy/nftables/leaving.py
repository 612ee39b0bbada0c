"""Taking the table away without cutting a connection that it translated.

The trap: a translated connection dies with the table that has the nat chains, and also when their rules are the last
in the namespace that use connection tracking. So the table stays, without Services, with its base chains and one rule
that uses ``ct``, until conntrack has none any more that may be ours. Blocking: call from a thread.
"""

from dataclasses import dataclass

from netplane.linux import conntrack, nft
from netplane.linux.conntrack import DST_NAT, TRANSLATED, UDP, Flow, Wanted
from netplane.linux.nfnetlink import Tables
from proxy.nftables import observe, stale
from proxy.nftables.names import FAMILY, TABLE, VERSIONS

_AT = f"{FAMILY} {TABLE}"
NODE_PORTS = range(
    30000, 32768
)  # kube-apiserver's default; of those that a deleted Service had, nobody knows more
KEPT = "identity"  # the chain whose rule keeps connections tracked


def leave() -> bool:
    """One step: serve nobody new; then take the table away, once nobody needs it. Whether it is gone."""
    with Tables() as tables:
        if not tables.has_table(FAMILY, TABLE):
            return True
        rules = tables.rules(FAMILY, TABLE)
    if any(said for name, said in rules.items() if name != KEPT):
        _empty(list(rules), called())
    if _needed():
        return False
    nft.delete_table(FAMILY, TABLE)
    return True


@dataclass(frozen=True, slots=True)
class Called:
    """Where the table's Services are called, as its elements still say; and this machine's addresses, packed."""

    places: frozenset[tuple[bytes, int]]
    here: frozenset[bytes]

    def has(self, flow: Flow) -> bool:
        """Whether a flow called a Service that the table has."""
        address, port = flow.called.destination, flow.called.destination_port
        return (address, port) in self.places or (address in self.here and (b"", port) in self.places)


def called() -> Called:
    """Of the table as it is. Raises KernelError."""
    frontends = observe.targets()
    return Called(frozenset(_place(f.address.packed, f.port) for f in frontends), stale.machines_addresses())


def _needed() -> bool:
    """Whether a translated flow may be one that the table translated. At this machine's addresses there are others
    (hostPorts, published ports of other runtimes), which live as long as the chains that translated them.
    """
    flows = [flow for version in VERSIONS for flow in conntrack.flows(version, TRANSLATED)]
    here = stale.machines_addresses() if flows else frozenset()
    for flow in flows:
        if flow.called.destination not in here or flow.called.destination_port in NODE_PORTS:
            return True
    return bool(flows) and any(map(called().has, flows))


def _empty(chains: list[str], called: Called) -> None:
    lines = [f"flush chain {_AT} {name}" for name in chains]
    lines.append(f"add chain {_AT} {KEPT}")
    lines.append(f'add rule {_AT} {KEPT} ct state established counter comment "leaving"')
    nft.apply("\n".join(lines))
    # A UDP client would be sent to its endpoint for as long as it goes on sending, whatever becomes of that.
    conntrack.forget_where(called.has, Wanted(DST_NAT, UDP))


def _place(address: bytes, port: int) -> tuple[bytes, int]:
    return (address if any(address) else b"", port)
