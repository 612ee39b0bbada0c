"""Names that are not the cluster's: asked of the resolvers in the settings, one after the other.

None is the default: a lab has no way out, and a machine's own resolver is its administrator's decision.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
from dns.message import Message
from dns.name import Name
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from netplane.config import IPAddress
from netplane.dns.records import Question

TIMEOUT = 2.0
"""Seconds per resolver: a pod's own resolver tries again after 5."""
CONCURRENT = 512


@dataclass(frozen=True, slots=True)
class Resolver:
    """Where to ask."""

    address: IPAddress
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> "Resolver":
        """``192.0.2.1``, ``192.0.2.1:5353``, ``2001:db8::1`` or ``[2001:db8::1]:5353``. Raises ValueError."""
        host, port = text, "53"
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            port = rest.removeprefix(":") or "53"
        elif text.count(":") == 1:
            host, port = text.split(":")
        try:
            number = int(port)
            if not 0 < number < 65536:
                raise ValueError(f"{number} is not a port")
            return cls(ip_address(host), number)
        except ValueError as error:
            raise ValueError(f"forwardTo: {text!r} is not ADDRESS or ADDRESS:PORT: {error}") from None


class Forwarder:
    """Asks each resolver in turn until one answers."""

    def __init__(self, resolvers: Sequence[Resolver]) -> None:
        self._resolvers = tuple(resolvers)
        self._slots = asyncio.Semaphore(CONCURRENT)

    @property
    def enabled(self) -> bool:
        """Whether there is anyone to ask."""
        return bool(self._resolvers)

    async def ask(self, question: Question, *, tcp: bool) -> Message | None:
        """The answer as it came, or None where nobody gave one."""
        query = dns.message.make_query(question.name, question.kind, use_edns=0, payload=1232)
        async with self._slots:
            for resolver in self._resolvers:
                where, port = str(resolver.address), resolver.port
                try:
                    if tcp:
                        return await dns.asyncquery.tcp(query, where, TIMEOUT, port)
                    return await dns.asyncquery.udp(query, where, TIMEOUT, port, ignore_unexpected=True)
                except (dns.exception.DNSException, OSError, EOFError):
                    continue
        return None

    async def follow(self, name: Name, kind: RdataType) -> tuple[Rcode, Message | None]:
        """The records behind an alias' target outside the cluster."""
        if not self.enabled:
            return Rcode.NOERROR, None  # the alias alone is still true
        found = await self.ask(Question(name, kind), tcp=False)
        if found is not None and found.flags & dns.flags.TC:
            found = await self.ask(Question(name, kind), tcp=True)
        return (Rcode.SERVFAIL, None) if found is None else (found.rcode(), found)
