"""What carries traffic: the listeners that are served, the flows that came by them, and what was counted.

Why apart from the data path: this is all that must go on while the rest of the proxy thinks, restarts or dies.
It runs in a process of its own (``workers``), or within the data path's, where one process is enough.
"""

import asyncio
import socket
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import chain
from time import monotonic
from typing import Any

from proxy.balance import Affinity, Ejections
from proxy.model import Endpoint, Frontend, NodeFacts, Pool, Protocol, ServicePort, Target, joined
from proxy.userspace.datagrams import IDLE_QUERY, IDLE_STREAM, Datagrams, Exchange
from proxy.userspace.describe import describe_flows
from proxy.userspace.dialing import Dialer
from proxy.userspace.listeners import Choice, Listener, Origin
from proxy.userspace.poller import Poller
from proxy.userspace.streams.admission import Admission
from proxy.userspace.streams.engine import Engine
from proxy.userspace.streams.flow import Flow
from proxy.userspace.streams.ledger import Ledger
from proxy.userspace.traffic import Accounts, Traffic, TrafficKey

DESCRIBED_AT_ONCE = 50
CONNECT_DEADLINE = 5.0  # seconds in which a client's connection must find an endpoint


class Worker:
    """Lives in one event loop, and in the network namespace of its node. ``deadline``, ``udp_idle``: seconds.

    ``by_endpoint``: count traffic by endpoint.
    """

    def __init__(
        self,
        *,
        deadline: float = CONNECT_DEADLINE,
        udp_idle: tuple[float, float] = (IDLE_QUERY, IDLE_STREAM),
        ledger: Ledger | None = None,
        by_endpoint: bool = False,
    ) -> None:
        self.ledger = ledger or Ledger()
        self.dialer = Dialer(NodeFacts(""))
        self._ejections = Ejections()
        poller = Poller()
        self.engine = Engine(poller, self.dialer, self._ejections, self.ledger, deadline=deadline)
        self.datagrams = Datagrams(poller, self.dialer, most=self.engine.admission.limit // 4, idle=udp_idle)
        self._listeners: dict[Frontend, Listener] = {}
        self._sticky: set[Frontend] = set()  # with affinity, so that no other process serves them
        self._affinity: dict[ServicePort, Affinity] = {}
        self._formers: dict[tuple[Frontend, ServicePort], Origin] = {}
        self._moved = (
            False  # endpoints may have gone since somebody looked whether those passed over are still there
        )
        self._accounts = Accounts(by_endpoint=by_endpoint)

    # -- what to serve ---------------------------------------------------------------------------------

    def set_node(self, node: NodeFacts) -> None:
        """Facts that decide whose address an endpoint sees."""
        self.dialer.set_node(node)

    def point(self, frontend: Frontend, target: Target, sock: socket.socket | None) -> None:
        """Serve a frontend's clients from ``target`` from now on; the socket matters at the first time only."""
        affinity = self._affinity.setdefault(target.service, Affinity())
        self._moved = True
        self._note_affinity(frontend, sticky=target.affinity is not None)
        listener = self._listeners.get(frontend)
        if listener is None:
            assert sock is not None
            listener = Listener(frontend, sock, target, self._accounts, affinity, self._ejections)
            self._listeners[frontend] = listener
            self._admission_of(frontend).add(listener)
            self.engine.lifetimes.repoint(frontend, None, target)
            if target.max_age is not None or target.drain is not None:
                for flow in self._flows_of(listener):
                    self.take_up(flow)
            return
        was_ageless = listener.target.max_age is None
        self.engine.lifetimes.repoint(frontend, listener.target, target)
        listener.point_at(target)
        if was_ageless and target.max_age is not None:
            for flow in self._flows_of(listener):
                self._limit_age(flow, listener)
        listener.affinity = affinity
        if frontend.protocol is Protocol.UDP:
            self.datagrams.repoint(listener)

    def shut(self, frontend: Frontend) -> socket.socket | None:
        """Serve it no longer; its TCP flows go on. The socket is the caller's again."""
        listener = self._listeners.pop(frontend, None)
        if listener is None:
            return None
        self._moved = True
        self._note_affinity(frontend, sticky=False)
        self.engine.lifetimes.repoint(frontend, listener.target, None)
        self._admission_of(frontend).remove(listener)
        return listener.sock

    def _note_affinity(self, frontend: Frontend, *, sticky: bool) -> None:
        if sticky != (frontend in self._sticky) and frontend.protocol is Protocol.TCP:
            self._sticky ^= {frontend}
            self.engine.admission.leave_room(bool(self._sticky))

    def forget(self, ended: Iterable[TrafficKey]) -> None:
        """Counters and affinities end with their Service, once its last flow has ended."""
        for key in self._accounts.end(ended):
            if key.endpoint:
                continue
            service, protocol = key.service, key.protocol
            self._formers = {
                at: one for at, one in self._formers.items() if (at[1], at[0].protocol) != (service, protocol)
            }
            self._affinity.pop(service, None)
        if self._ejections and self._moved:
            self._moved = False
            choices = (choice for one in self._listeners.values() for choice in (one.inside, one.outside))
            self._ejections.keep(chain.from_iterable(choice.where for choice in choices))

    def served(self, frontend: Frontend) -> Listener | None:
        """The listener of a frontend, or of its port on all addresses."""
        everywhere = ip_address("0.0.0.0" if frontend.address.version == 4 else "::")
        anywhere = Frontend(everywhere, frontend.port, frontend.protocol)
        return self._listeners.get(frontend) or self._listeners.get(anywhere)

    async def settled(self) -> None:
        """All that was said here is done."""

    async def refresh(self) -> None:
        """What is told here is always so now."""

    # -- what there is ---------------------------------------------------------------------------------

    @property
    def traffic(self) -> dict[TrafficKey, Traffic]:
        """All that is counted."""
        return self._accounts.traffic

    def flows(self) -> Iterator[Flow | Exchange]:
        """All flows with an endpoint, at this moment."""
        return chain(self.engine.flows(), self.datagrams.exchanges())

    async def describe(self) -> list[dict[str, Any]]:
        """All flows in words, some at a time: whoever asks must not hold up those that are asked about."""
        flows, found = list(self.flows()), []
        for start in range(0, len(flows), DESCRIBED_AT_ONCE):
            found += describe_flows(flows[start : start + DESCRIBED_AT_ONCE])
            await asyncio.sleep(0)
        return found

    @property
    def active(self) -> int:
        """How many flows there are."""
        return self.engine.active + self.datagrams.active

    @property
    def room(self) -> int:
        """How many more connections the descriptor limit allows."""
        return self.engine.admission.room

    @property
    def ejected(self) -> list[str]:
        """Endpoints that new connections pass over for now."""
        return [joined(ip_address(address), port) for address, port in self._ejections.out(monotonic())]

    def former_flow(self, frontend: Frontend, service: ServicePort, client: str, endpoint: Endpoint) -> Flow:
        """A flow that another process began, connected to its endpoint."""
        former = self._formers.get((frontend, service))
        if former is None:
            target = Target(service, Pool(), Pool())
            former = Origin(frontend, target, self._accounts, Affinity(most=0))
            self._formers[frontend, service] = former
        flow = Flow(former, former.traffic, self.dialer.client(client), Choice(), 0, 0.0)
        flow.endpoint, flow.tried, flow.connected = endpoint, 1, True
        return flow

    def take_up(self, flow: Flow) -> None:
        """Another process began the flow: its times count from now, and its client stays with its endpoint."""
        listener = self.served(flow.listener.frontend)
        if listener is None:
            return
        if listener.target.affinity is not None and flow.endpoint is not None:
            until = monotonic() + listener.target.affinity
            listener.affinity.remember(flow.client.text, flow.endpoint, until)
        self.engine.lifetimes.take_up(flow, listener.frontend, listener.target)
        self._limit_age(flow, listener)

    def _limit_age(self, flow: Flow, listener: Listener) -> None:
        if listener.target.max_age is not None:
            self.engine.lifetimes.limit(flow, listener.target.max_age, monotonic())

    def _flows_of(self, listener: Listener) -> list[Flow]:
        """Those that are there; some that were taken over may be here before their listener."""
        return [flow for flow in self.engine.flows() if self.served(flow.listener.frontend) is listener]

    def stop_accepting(self) -> None:
        """Take no more clients, who wait in the kernel's queues; UDP flows end. Our copies of sockets are closed."""
        self.engine.admission.end()
        self.datagrams.close()
        while self._listeners:
            self._listeners.popitem()[1].sock.close()

    async def close(self, *, keep: bool) -> None:
        """End every flow, whether the listeners' sockets (which stay the caller's) are kept or not."""
        self.datagrams.close()
        self.engine.close()
        self._listeners.clear()

    def _admission_of(self, frontend: Frontend) -> Admission | Datagrams:
        return self.datagrams if frontend.protocol is Protocol.UDP else self.engine.admission
