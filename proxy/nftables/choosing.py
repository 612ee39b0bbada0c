"""The chains that choose an endpoint, and those that remember whom a client got.

Why not text as the other rules: see ``netplane.linux.nfrules``. Pure: chains are values here.
"""

from netplane.linux import nfrules
from netplane.linux.nfrules import FIRST
from proxy.nftables.names import STICKY, Chain, Kind, Learn, Pick, clients, slots


def rules_of(chain: Chain) -> nfrules.Chain:
    """The chain as the kernel takes it."""
    return _picking(chain) if isinstance(chain, Pick) else _learning(chain)


def _picking(chain: Pick) -> nfrules.Chain:
    """Mark it ours; then, of a sticky Service, the endpoint that this client had; else any of its slots."""
    kind, version = chain.kind, chain.version
    rules = [nfrules.mark(kind.mark | (STICKY if chain.sticky else 0))]
    if chain.sticky:
        known, _ = nfrules.load(FIRST, *_frontend(kind, version), ("source", version))
        rules.append([*nfrules.only(version), *known, *_to(clients(kind, version), version)])
    key, index = nfrules.load(FIRST, *_frontend(kind, version))
    chosen = [*key, nfrules.choice(index, chain.count)]
    rules.append([*nfrules.only(version), *chosen, *_to(slots(kind, version), version)])
    return nfrules.Chain(chain.name, rules)


def _frontend(kind: Kind, version: int) -> list[tuple[str, int]]:
    address = [] if kind.by_port else [("destination", version)]
    return [*address, ("protocol", version), ("port", version)]


def _to(name: str, version: int) -> list[nfrules.Expression]:
    port = FIRST + nfrules.registers(version)
    return [nfrules.look_up(name), nfrules.dnat(version, FIRST, port)]


def _learning(chain: Learn) -> nfrules.Chain:
    """After the translation: the frontend as it was called, and the client, lead to where this packet goes now."""
    kind, version = chain.kind, chain.version
    address = [] if kind.by_port else [("called", version)]
    parts = [*address, ("protocol", version), ("called port", version), ("source", version)]
    key, value = nfrules.load(FIRST, *parts)
    endpoint, _ = nfrules.load(value, ("destination", version), ("port", version))
    name = clients(kind, version)
    rule = [*nfrules.only(version), *key, *endpoint, nfrules.remember(name, FIRST, value, chain.seconds)]
    return nfrules.Chain(chain.name, [rule])
