"""How long connections may live: no longer than their Service says, and not for ever at an endpoint that has left.

Why an end in two steps: a connection that is over age is ended in a quiet moment, by FIN to both sides, which a
client with a pool of connections takes as any idle timeout. Only one that is never quiet is cut. Kube-proxy ends no
connection at all; so both are for those who ask (annotations of the Service).
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from time import monotonic

from proxy.model import Endpoint, Frontend, IPAddress, Target
from proxy.userspace import sockets
from proxy.userspace.streams.flow import Flow, Side
from proxy.userspace.streams.relaying import Relay

JITTER = 0.1  # of the age, either way: what began together must not end together
SWEEP = 1.0  # seconds between two looks at the connections that have an age
QUIET = 1000  # milliseconds without a byte either way
GRACE = 30.0  # seconds over age that a connection may go on for a quiet moment

At = tuple[IPAddress, int]


class Lifetimes:
    """Watches over the flows of one process. ``flows`` gives those with an endpoint."""

    def __init__(self, relay: Relay, flows: Callable[[], Iterator[Flow]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._relay = relay
        self._flows = flows
        self._over: dict[Flow, float] = {}  # when its time is over
        self._timer: asyncio.TimerHandle | None = None
        self._left: dict[Frontend, dict[At, float]] = {}  # until when flows may stay there
        self._wakes: dict[Frontend, asyncio.TimerHandle] = {}

    def limit(self, flow: Flow, seconds: float, now: float) -> None:
        """A connection that has begun is to end after about so long; what was said first holds."""
        self._over.setdefault(flow, now + seconds * random.uniform(1 - JITTER, 1 + JITTER))
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP, self._sweep)

    def repoint(self, frontend: Frontend, before: Target | None, after: Target | None) -> None:
        """A frontend has other endpoints (None: nobody serves it): connections to others are counted out."""
        stay = _endpoints(after)
        left = {at: until for at, until in self._left.pop(frontend, {}).items() if at not in stay}
        if left:
            self._left[frontend] = left
        self._wake(frontend)
        seconds = next((target.drain for target in (after, before) if target is not None), None)
        if seconds is not None:
            self._count_out(frontend, _endpoints(before) - stay, seconds)

    def take_up(self, flow: Flow, frontend: Frontend, target: Target) -> None:
        """Another process began a connection: where its endpoint has left, its time there counts from now."""
        if target.drain is not None and flow.endpoint is not None:
            self._count_out(frontend, {_at(flow.endpoint)} - _endpoints(target), target.drain)

    def _count_out(self, frontend: Frontend, gone: set[At], seconds: float) -> None:
        left = self._left.get(frontend, {})
        gone -= left.keys()
        if gone:
            self._left[frontend] = left | dict.fromkeys(gone, monotonic() + seconds)
            self._wake(frontend)

    def _wake(self, frontend: Frontend) -> None:
        """When the first time is over; the loop's clock may be behind ours, so it may be too soon."""
        if (former := self._wakes.pop(frontend, None)) is not None:
            former.cancel()
        if left := self._left.get(frontend):
            seconds = max(0.0, min(left.values()) - monotonic())
            self._wakes[frontend] = self._loop.call_later(seconds, self._drained, frontend)

    def close(self) -> None:
        """Watch no longer; no connection ends by that."""
        self._over.clear()
        self._left.clear()
        for wake in self._wakes.values():
            wake.cancel()
        self._wakes.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = monotonic()
        for flow, over in list(self._over.items()):
            if not flow.open:
                del self._over[flow]
            elif now >= over + GRACE:
                self._relay.reset(flow)
            elif now >= over and _is_quiet(flow):
                self._relay.close(flow)
        self._relay.tidy()
        self._timer = self._loop.call_later(SWEEP, self._sweep) if self._over else None

    def _drained(self, frontend: Frontend) -> None:
        left, now = self._left.get(frontend, {}), monotonic()
        late = {at for at, until in left.items() if now >= until}
        for flow in self._flows() if late else ():
            if flow.listener.frontend == frontend and flow.endpoint and _at(flow.endpoint) in late:
                self._relay.reset(flow)
        self._relay.tidy()
        for at in late:
            del left[at]
        if not left:
            self._left.pop(frontend, None)
        self._wake(frontend)


def _endpoints(target: Target | None) -> set[At]:
    if target is None:
        return set()
    return {_at(endpoint) for pool in (target.inside, target.outside) for endpoint in pool.endpoints}


def _at(endpoint: Endpoint) -> At:
    return endpoint.address, endpoint.port


def _is_quiet(flow: Flow) -> bool:
    client, endpoint = flow.client_side, flow.endpoint_side
    return client is not None and endpoint is not None and _rests(client) and _rests(endpoint)


def _rests(side: Side) -> bool:
    return not (side.pipe is not None and side.pipe.held) and sockets.silent_for(side.fd) >= QUIET
