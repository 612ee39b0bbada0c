"""Taking the table away without cutting a connection that it translated.

The trap: a translated connection dies with the table that has the nat chains, and also when their rules are the last
in the namespace that use connection tracking. So the table stays, without Services, with its base chains and one rule
that uses ``ct``, until conntrack has no translated connection any more. Blocking: call from a thread.
"""

from netplane.linux import conntrack, nft
from netplane.linux.nfnetlink import Tables
from proxy.nftables import observe
from proxy.nftables.names import FAMILY, TABLE

_AT = f"{FAMILY} {TABLE}"
KEPT = "identity"  # the chain whose rule keeps connections tracked


def leave() -> bool:
    """One step: serve nobody new; then take the table away, once nobody needs it. Whether it is gone."""
    with Tables() as tables:
        if not tables.has_table(FAMILY, TABLE):
            return True
        rules = tables.rules(FAMILY, TABLE)
    if any(count for name, count in rules.items() if name != KEPT):
        _empty(list(rules))
    if any(flow.translated for version in (4, 6) for flow in conntrack.flows(version, translated=True)):
        return False
    nft.delete_table(FAMILY, TABLE)
    return True


def _empty(chains: list[str]) -> None:
    forgotten = {_place(frontend.address.packed, frontend.port) for frontend in observe.targets()}
    lines = [f"flush chain {_AT} {name}" for name in chains]
    lines.append(f"add chain {_AT} {KEPT}")
    lines.append(f'add rule {_AT} {KEPT} ct state established counter comment "leaving"')
    nft.apply("\n".join(lines))
    # A UDP client would be sent to its endpoint for as long as it goes on sending, whatever becomes of that.
    conntrack.forget_where(
        lambda flow: (
            flow.protocol == conntrack.UDP
            and (
                _place(flow.called.destination, flow.called.destination_port) in forgotten
                or _place(b"", flow.called.destination_port) in forgotten
            )
        ),
        translated=True,
    )


def _place(address: bytes, port: int) -> tuple[bytes, int]:
    return (address if any(address) else b"", port)
