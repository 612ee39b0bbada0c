"""One query's way through this room: read, look up, ask elsewhere if it must, render, count."""

from dataclasses import dataclass, replace

import dns.flags
import dns.message
import dns.rdatatype
from dns.rcode import Rcode
from prometheus_client import CollectorRegistry, Counter

from netplane.dns import wire
from netplane.dns.forward import Forwarder
from netplane.dns.index import Index
from netplane.dns.records import Answer, Zone
from netplane.dns.wire import Query


class Counters:
    """What ``/metrics`` shows of this room."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "netplane_dns_requests_total",
            "Queries answered, by transport, record type and result.",
            ("proto", "type", "rcode"),
            registry=self.registry,
        )

    def count(self, proto: str, kind: str, rcode: Rcode) -> None:
        """One answer. Types without a name share one label, so that no client can grow the series."""
        self.requests.labels(proto, "other" if kind.startswith("TYPE") else kind, rcode.name).inc()


@dataclass(frozen=True, slots=True)
class Pending:
    """A query whose answer needs another resolver; ``known`` is what our zone already says (an alias)."""

    query: Query
    known: Answer | None


class Answerer:
    """From a query's bytes to the answer's bytes."""

    def __init__(self, zone: Zone, index: Index, forwarder: Forwarder) -> None:
        self.zone = zone
        self.index = index
        self.counters = Counters()
        self._forwarder = forwarder

    def prompt(self, data: bytes, *, tcp: bool = False) -> bytes | Pending | None:
        """The answer where the index has it; None where nothing goes back. Never raises for any bytes."""
        query = wire.read(data)
        proto = "tcp" if tcp else "udp"
        if isinstance(query, wire.Rejected):
            self.counters.count(proto, "other", query.rcode)
            return query.wire
        found = wire.resolve(query, self.zone, self.index)
        if found is None:
            if self._forwarder.enabled:
                return Pending(query, None)
            found = Answer(Rcode.REFUSED)
        elif found.follow is not None and self._forwarder.enabled:
            return Pending(query, found)
        return self._render(query, found, tcp=tcp)

    async def later(self, pending: Pending, *, tcp: bool) -> bytes:
        """The answer that needs another resolver."""
        query = pending.query
        if pending.known is not None:
            return self._render(query, await self._followed(pending.known, query), tcp=tcp)
        found = await self._forwarder.ask(query.question, tcp=tcp)
        if found is None:
            return self._render(query, Answer(Rcode.SERVFAIL), tcp=tcp)
        response = dns.message.make_response(query.message, recursion_available=True)
        response.flags |= found.flags & dns.flags.TC
        response.set_rcode(found.rcode())
        response.answer, response.authority = found.answer, found.authority
        self._count(query, found.rcode(), tcp=tcp)
        return wire.to_wire(response, wire.TCP_LIMIT if tcp else wire.udp_limit(query))

    async def whole(self, data: bytes) -> bytes | None:
        """The answer by TCP; None where nothing goes back."""
        prompt = self.prompt(data, tcp=True)
        return await self.later(prompt, tcp=True) if isinstance(prompt, Pending) else prompt

    async def _followed(self, known: Answer, query: Query) -> Answer:
        """An alias out of the cluster, completed with what its target has."""
        assert known.follow is not None
        rcode, found = await self._forwarder.follow(known.follow, query.question.kind)
        more = tuple(found.answer) if found is not None else ()
        return replace(known, rcode=rcode, records=(*known.records, *more))

    def _render(self, query: Query, found: Answer, *, tcp: bool) -> bytes:
        self._count(query, found.rcode, tcp=tcp)
        return wire.render(query, found, limit=wire.TCP_LIMIT if tcp else wire.udp_limit(query))

    def _count(self, query: Query, rcode: Rcode, *, tcp: bool) -> None:
        kind = dns.rdatatype.to_text(query.question.kind)
        self.counters.count("tcp" if tcp else "udp", kind, rcode)
