"""What Services, or the settings, ask for and a mode does not do: each is said by name, none is dropped in silence.

Why in one place: the kernel's data paths need not know the wishes that they cannot grant. Pure.
"""

from collections.abc import Callable, Mapping

from proxy.diff import diff
from proxy.model import Balance, Frontend, Target

_ANY_TURN = frozenset({Balance.ROUND_ROBIN, Balance.RANDOM})


def _balance(target: Target) -> bool:
    return target.balance not in _ANY_TURN


# What a mode says of a target that asks for this; the relay hears everything.
_NO_PROXY_PROTOCOL = "no PROXY protocol is spoken (netplane.io/proxy-protocol)"
_NO_AGE = "connections have no age (netplane.io/max-connection-age)"
WISHES: Mapping[str, Mapping[str, Callable[[Target], bool]]] = {
    "nftables": {
        "endpoints are chosen at random (netplane.io/balance)": _balance,
        _NO_PROXY_PROTOCOL: lambda target: target.proxy_protocol,
        _NO_AGE: lambda target: target.max_age is not None,
        "connections to endpoints that have left go on (netplane.io/drain)": lambda t: t.drain is not None,
    },
    "ebpf": {
        "endpoints take turns (netplane.io/balance)": _balance,
        _NO_PROXY_PROTOCOL: lambda target: target.proxy_protocol,
        _NO_AGE: lambda target: target.max_age is not None,
    },
}


class Unheard:
    """The wishes of one mode's targets that are without effect, kept up at the cost of what changed.

    ``endpoint_metrics``: the settings wish for that.
    """

    def __init__(self, mode: str, *, endpoint_metrics: bool = False) -> None:
        self._mode = mode
        self._wishes = WISHES.get(mode, {})
        nothing = f"in mode {mode} nothing is counted by endpoint (endpointMetrics in proxy.yaml)"
        self._always = {nothing} if endpoint_metrics and mode in WISHES else set()
        self._seen: Mapping[Frontend, Target] = {}
        self._said: dict[Frontend, tuple[str, ...]] = {}

    def of(self, want: Mapping[Frontend, Target]) -> tuple[str, ...]:
        """One line for each Service and wish, and for each wish of the settings, sorted."""
        changes = diff(self._seen, want)
        for frontend in (*changes.removed, *changes.changed):
            self._said.pop(frontend, None)
        for frontend, target in (*changes.changed.items(), *changes.added.items()):
            if lines := self._lines(target):
                self._said[frontend] = lines
        self._seen = want
        return tuple(sorted(self._always.union(*self._said.values())))

    def _lines(self, target: Target) -> tuple[str, ...]:
        unheard = (text for text, asks in self._wishes.items() if asks(target))
        return tuple(f"{target.service}: in mode {self._mode} {text}" for text in unheard)
