"""The chains that choose an endpoint, and those that remember whom a client got.

Why not text as the other rules: see ``netplane.linux.nfrules``. Pure: chains are values here.
"""

from netplane.linux import nfrules
from netplane.linux.nfrules import FIRST, Expression
from proxy.nftables.names import STICKY, Chain, Kind, Learn, Pick, clients, identities, slots


def rules_of(chain: Chain) -> nfrules.Chain:
    """The chain as the kernel takes it."""
    return _picking(chain) if isinstance(chain, Pick) else _learning(chain)


def _picking(chain: Pick) -> nfrules.Chain:
    """Mark it ours; then, of a sticky Service, the endpoint that this client had; else any of its slots.

    A Service may lose an endpoint between the look-up that led here and that of the slot: then the first one, which it
    has as long as it has any.
    """
    kind, version = chain.kind, chain.version
    frontend = [] if kind.by_port else [("destination", version)]
    key, index = nfrules.load(FIRST, *frontend, ("protocol", version), ("port", version))
    rules = [nfrules.mark(kind.mark | (STICKY if chain.sticky else 0))]
    if chain.sticky:
        rules.append([*nfrules.only(version), *_note_identity(kind, version, key)])
        client, _ = _client(version)
        rules.append([*nfrules.only(version), *client, *_to(clients(version), version)])
    choices = (nfrules.choice(index, chain.count), nfrules.constant(0, index))
    found = _to(slots(kind, version), version)
    rules += [[*nfrules.only(version), *key, choice, *found] for choice in choices]
    return nfrules.Chain(chain.name, rules)


def _learning(chain: Learn) -> nfrules.Chain:
    """After the translation: the frontend as it was called, and the client, lead to where this packet goes now."""
    kind, version = chain.kind, chain.version
    address = [] if kind.by_port else [("called", version)]
    called, _ = nfrules.load(FIRST, *address, ("protocol", version), ("called port", version))
    client, value = _client(version)
    endpoint, _ = nfrules.load(value, ("destination", version), ("port", version))
    rules = [
        [*nfrules.only(version), *_note_identity(kind, version, called)],
        [
            *nfrules.only(version),
            *client,
            *endpoint,
            nfrules.remember(clients(version), FIRST, value, chain.seconds),
        ],
        [nfrules.constant(0), nfrules.note()],
    ]
    return nfrules.Chain(chain.name, rules)


def _note_identity(kind: Kind, version: int, frontend: list[Expression]) -> list[Expression]:
    return [*frontend, nfrules.look_up(identities(kind, version)), nfrules.note()]


def _client(version: int) -> tuple[list[Expression], int]:
    """The key of ``clients``, and the register after it."""
    return nfrules.load(FIRST, ("noted", version), ("source", version))


def _to(name: str, version: int) -> list[Expression]:
    port = FIRST + nfrules.registers(version)
    return [nfrules.look_up(name), nfrules.dnat(version, FIRST, port)]
