"""The short way between pods of this node, kept true to the pods there are and to what the host's stack is needed for.

The order is everything. A pod is first written into the map as not ready: from then on a program notes whatever
reaches it by the stack. Then what reached it before is noted, from the kernel's own lists. Only then is it ready, and
what it sends goes past the stack, but for answers to what was noted. Blocking.
"""

import logging
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic

from netplane.errors import KernelError
from netplane.linux.bpf import Map
from netplane.linux.nfnetlink import Tables
from proxy.ebpf.hostrouting import links, programs, translated
from proxy.ebpf.hostrouting.deciding import HostRouting, in_the_way, refusal
from proxy.ebpf.hostrouting.layout import Ends, pod_bytes, pod_of
from proxy.ebpf.hostrouting.links import Links
from proxy.ebpf.hostrouting.programs import Programs
from proxy.ebpf.layout import address_bytes, address_of
from proxy.model import IPAddress

LOOK_EVERY = 30.0  # seconds after which everything is looked at though nothing is known to have changed
SWEEP_EVERY = 30.0  # seconds
QUIET = 60.0  # seconds without a packet after which a noted flow may have ended
_LEGACY_TABLES = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")
_MISSED, _ANSWERED = 0, 1
_NANO = 1_000_000_000
log = logging.getLogger(__name__)


class ShortWay:
    """Lives in the node's network namespace; ``directory``: where the pins are, on a BPF file system.

    One thread at a time: who is told to end while another is at it waits for that one, and is the last.
    """

    def __init__(self, directory: Path, asked: HostRouting = HostRouting.AUTO) -> None:
        self._directory, self._asked = directory, asked
        self._turn, self._closed = threading.Lock(), False
        self._programs: Programs | None = None
        self._attached: set[int] = set()
        self._generation = -1
        self._looked_at = self._swept_at = 0.0
        self.refused = "nothing is forwarded yet"
        self.problem = ""

    @property
    def described(self) -> str:
        """``bpf`` or ``legacy``, and why."""
        return f"legacy: {self.refused}" if self.refused else str(HostRouting.BPF)

    def settle(self) -> list[str]:
        """Look at everything anew, and make it so; what somebody had taken away, in words.

        What fails leaves packets to the host's stack, and is said once.
        """
        with self._turn:
            return [] if self._closed else self._settle()

    def tend(self, changed: bool) -> None:
        """Call it every second or so, and when links or routes have ``changed``: it does what there is to do."""
        if changed or _generation() != self._generation or monotonic() - self._looked_at >= LOOK_EVERY:
            self.settle()

    def close(self) -> None:
        """Let go; what is attached goes on."""
        with self._turn:
            self._closed = True
            self._let_go()

    # --- parts --------------------------------------------------------------------------------------------

    def _settle(self) -> list[str]:
        lost: list[str] = []
        self._looked_at = monotonic()
        try:
            self._generation = _generation()
            refused = self._refusal()
            if not refused:
                self._open()
                lost = self._follow()
        except KernelError as error:
            refused = str(error)
        if refused and (refused != self.refused or self._programs is not None):
            self._withdraw()
        if refused != self.refused:
            self.refused = refused
            log.info("between pods of this node, host routing is %s", self.described)
        return lost

    def _refusal(self) -> str:
        if self._asked is not HostRouting.AUTO:
            return refusal(self._asked, ())
        with Tables() as tables:
            others = in_the_way(tables.base_chains())
        return refusal(self._asked, [*others, *_legacy_tables()])

    def _open(self) -> None:
        if self._programs is None:
            self._programs = Programs(self._directory)
            self._attached.clear()

    def _let_go(self) -> None:
        if self._programs is not None:
            self._programs.close()
            self._programs = None
        self._attached.clear()

    def _withdraw(self) -> None:
        self._let_go()
        programs.remove(self._directory)

    def _follow(self) -> list[str]:
        """The pods there are now; then, now and then, what has ended among the flows that were noted."""
        assert self._programs is not None
        found, maps = links.look(), self._programs.maps
        begins = not _have(maps["pods"])
        lost = (self._attached & set(found.pods.values())) - found.served
        wanted = self._attach(found)
        self._forget(maps, wanted)
        have = _have(maps["pods"])
        fresh = {address: link for address, link in wanted.items() if have.get(address) != (link, True)}
        if fresh:
            self._admit(maps, wanted, fresh)
        if begins:
            translated.forget_plain(wanted)
            programs.remove_others(self._directory)
        if monotonic() - self._swept_at >= SWEEP_EVERY:
            self._sweep(maps, wanted)
        return [f"the programs at the links of {len(lost)} pods"] if lost else []

    def _attach(self, found: Links) -> dict[IPAddress, int]:
        """The pods whose links have our programs and are in the map of links: those that are still there."""
        assert self._programs is not None
        held, plain = self._programs.maps["links"], set(found.pods.values())
        known = self._attached & plain & found.served
        self._attached = known | {link for link in plain - known if self._programs.attach(link)}
        for link in self._attached - {_link(key) for key, _ in held.items()}:
            try:
                held.put(_number(link), _number(link))
            except KernelError:  # it has gone meanwhile
                self._attached.discard(link)
        return {address: link for address, link in found.pods.items() if link in self._attached}

    def _forget(self, maps: Mapping[str, Map], wanted: Mapping[IPAddress, int]) -> None:
        """Nothing goes to, or comes from, what is no pod any more or has a limit now."""
        for address, (link, _) in _have(maps["pods"]).items():
            if wanted.get(address) != link:
                maps["pods"].delete(address_bytes(address))
        for link in {_link(key) for key, _ in maps["links"].items()} - set(wanted.values()):
            maps["links"].delete(_number(link))
            programs.detach(link)

    def _admit(
        self, maps: Mapping[str, Map], wanted: Mapping[IPAddress, int], fresh: Mapping[IPAddress, int]
    ) -> None:
        for address, link in fresh.items():
            maps["pods"].put(address_bytes(address), pod_bytes(link, ready=False))
        _note(maps["translated"], translated.flows(wanted))
        for address, link in fresh.items():
            maps["pods"].put(address_bytes(address), pod_bytes(link, ready=True))

    def _sweep(self, maps: Mapping[str, Map], wanted: Mapping[IPAddress, int]) -> None:
        """Take out what has ended; where the map was full, and now has room for all that is there, open again."""
        self._swept_at = monotonic()
        missed = maps["overflow"].get(_number(_MISSED)) or bytes(8)
        closed = missed != maps["overflow"].get(_number(_ANSWERED))
        noted = dict(maps["translated"].items())
        if not noted and not closed:
            return
        needed = translated.flows(wanted)
        kept = {flow.packed for flow in needed}
        oldest = monotonic() - (1.0 if closed else QUIET)
        for key, seen in noted.items():
            if key not in kept and int.from_bytes(seen, sys.byteorder) / _NANO < oldest:
                maps["translated"].delete(key)
        self.problem = ""
        if closed:
            try:
                _note(maps["translated"], needed)
            except KernelError as error:
                self.problem = f"pods of this node reach each other through the host's stack: {error.message}"
                return
            maps["overflow"].put(_number(_ANSWERED), missed)


def _have(held: Map) -> dict[IPAddress, tuple[int, bool]]:
    return {address_of(key): pod_of(value) for key, value in held.items()}


def _note(held: Map, flows: Iterable[Ends]) -> None:
    now = int(monotonic() * _NANO).to_bytes(8, sys.byteorder)
    for flow in flows:
        held.put(flow.packed, now)


def _generation() -> int:
    with Tables() as tables:
        return tables.generation()


def _legacy_tables() -> list[str]:
    """The tables that somebody has used by iptables' older kind, which nftables does not list."""
    names = []
    for path in map(Path, _LEGACY_TABLES):
        if path.exists():
            names += [
                f"{path.name.partition('_')[0]}tables table {name}" for name in path.read_text().split()
            ]
    return names


def _link(key: bytes) -> int:
    return int.from_bytes(key, sys.byteorder)


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
