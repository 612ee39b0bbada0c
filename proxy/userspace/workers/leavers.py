"""When counters end that are kept by endpoint: else a year of rollouts would fill the memory, and the page of metrics.

Why not at once: whoever looks every minute is to see what an endpoint carried last, and Prometheus looks back for a
series for five minutes (``query.lookback-delta``). Pure.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from proxy.model import Frontend, Target
from proxy.userspace.traffic import Traffic, TrafficKey, keys_of

LINGER: Final = 300.0  # seconds


class Leavers:
    """Whose counters nobody adds to any more, and since when. ``linger``: seconds until they end."""

    def __init__(self, linger: float = LINGER) -> None:
        self._linger = linger
        self._since: dict[TrafficKey, float] = {}

    def note(self, frontend: Frontend, before: Target, after: Target | None, now: float) -> None:
        """A frontend leads elsewhere; workers have counters of those that left, whether anybody came or not."""
        stay = set() if after is None else set(keys_of(frontend, after))
        for key in keys_of(frontend, before):
            if key not in stay:
                self._since.setdefault(key, now)

    def over(
        self, counted: Mapping[TrafficKey, Traffic], wanted: Iterable[tuple[Frontend, Target]], now: float
    ) -> list[TrafficKey]:
        """Those that no frontend leads to, and that have had no open flow, for so long that their time is over."""
        idle = {*self._since, *counted} - {key for key, traffic in counted.items() if traffic.active}
        services = {key.service for key in idle}
        served = {
            key
            for frontend, target in wanted
            if target.service in services
            for key in keys_of(frontend, target)
        }
        self._since = {key: self._since.get(key, now) for key in idle - served}
        over = [key for key, since in self._since.items() if now - since >= self._linger]
        for key in over:
            del self._since[key]
        return over
