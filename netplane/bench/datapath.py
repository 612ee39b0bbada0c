"""What each way to a Service costs beside going straight to the pod: one interleaved run over all of them.

Why every subject has a node of its own: rules, hooks and conntrack of one would tax the others. Why slices: only what
ran within the same seconds can be compared on a machine whose speed moves. Each round gives every subject one slice,
in random order; a ratio belongs to one round, and its median over all rounds comes with a bootstrap 95 % interval.
`direct` has a second node: the ratio of the two (A/A) shows what differences mean nothing. `direct` meets no netfilter.
`past the Service` goes straight to the pod, too, but on a node in ebpf mode: what the hooks cost lies between it and
`ebpf`; what the host's stack costs there, between `ebpf` and the same with legacy host routing.
"""

import random
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.bench import shapes
from netplane.bench.place import (
    CLUSTER_IP,
    NODE,
    ONE,
    PLAIN,
    PORT,
    SERVED,
    SERVER,
    SPLICE,
    Place,
    Services,
    build_load,
    cpu_seconds,
    linked,
    start_haproxy,
    start_netplane,
)
from netplane.bench.statistics import paired, percentile
from netplane.errors import ConfigError, PeerError

DIRECT, AGAIN, NFTABLES, EBPF, PAST = "direct", "direct again", "nftables", "ebpf", "past the Service"
LEGACY = "ebpf, legacy host routing"
TRIES = 3  # of a slice in which nothing got through
KUBE_IPTABLES, KUBE_NFTABLES = "kube-proxy's iptables", "kube-proxy's nftables"
# Measure → (the load's kind, parallel connections, unit).
MEASURES: Mapping[str, tuple[str, int, str]] = {
    "bulk": ("bulk", 1, "Gb/s"),
    "requests": ("request", 32, "1/s"),
    "connections": ("connect", 16, "1/s"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """One way from a client pod to an endpoint pod: what starts it, and where clients connect to."""

    name: str
    start: Callable[[Place], None]
    address: str = CLUSTER_IP
    port: int = PORT


def subjects() -> list[Subject]:
    """All that are compared."""
    return [
        Subject(DIRECT, _nothing, SERVER, SERVED),
        Subject(AGAIN, _nothing, SERVER, SERVED),
        *(Subject(mode, _netplane(mode)) for mode in ("userspace", NFTABLES, EBPF)),
        Subject(LEGACY, _netplane(EBPF, "legacy")),
        Subject(PAST, _netplane(EBPF), SERVER, SERVED),
        Subject("haproxy", _haproxy, NODE, PLAIN),
        Subject("haproxy splice", _haproxy, NODE, SPLICE),
        Subject(KUBE_IPTABLES, _rules(["iptables-restore"], shapes.iptables)),
        Subject(KUBE_NFTABLES, _rules(["nft", "-f", "-"], shapes.nftables)),
    ]


def measure(
    rounds: int, seconds: float, names: Sequence[str], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The comparison, one row a measure and subject. ``names``: only these subjects; all where empty.

    Raises ConfigError naming what is not installed, PeerError where a subject does not serve.
    """
    chosen = [one for one in subjects() if not names or one.name in names]
    with (
        tempfile.TemporaryDirectory(prefix="np-bench-") as directory,
        running(Path(directory), chosen, say) as here,
    ):
        rows: list[dict[str, Any]] = []
        for name, (kind, parallel, unit) in MEASURES.items():
            say(f"{name}: {rounds} rounds of {len(chosen)} slices of {seconds} s")
            found = sliced(here, kind, parallel, rounds, seconds)
            rows += _rows(name, unit, found)
    return rows


@contextmanager
def running(
    directory: Path, chosen: Sequence[Subject], say: Callable[[str], None]
) -> Iterator[dict[Subject, Place]]:
    """Every subject in a place of its own, serving. Raises ConfigError, PeerError."""
    load = build_load(directory)
    with ExitStack() as left:
        here = {}
        for number, subject in enumerate(chosen):
            say(f"starting {subject.name}")
            here[subject] = left.enter_context(linked(directory / str(number), load))
            subject.start(here[subject])
            here[subject].wait_for(subject.address, subject.port)
        yield here


def _nothing(_place: Place) -> None:
    """Direct."""


def _netplane(mode: str, host_routing: str = "auto") -> Callable[[Place], None]:
    return lambda place: start_netplane(place, mode, host_routing=host_routing)


def _haproxy(place: Place) -> None:
    start_haproxy(place, keep_client=False)


def _rules(command: Sequence[str], shape: Callable[[Services], str]) -> Callable[[Place], None]:
    def load(place: Place) -> None:
        try:
            place.run("node", command, feed=shape(ONE))
        except FileNotFoundError:
            raise ConfigError(
                f"cannot run {command[0]}: it is not installed", "./dev setup bench installs it"
            ) from None

    return load


# --- measuring --------------------------------------------------------------------------------------------

Figures = dict[str, list[float]]  # figure → one value a round


def sliced(
    here: Mapping[Subject, Place], kind: str, parallel: int, rounds: int, seconds: float
) -> dict[str, Figures]:
    """By subject, one value a round of its rate, processor time a unit, and median time. Raises PeerError."""
    found: dict[str, Figures] = {subject.name: {"rate": [], "cpu": [], "p50": []} for subject in here}
    for number in range(rounds + 1):
        for subject in random.sample(list(here), len(here)):
            into = (
                found[subject.name] if number else {"rate": [], "cpu": [], "p50": []}
            )  # round 0: warming up
            _slice(here[subject], subject, kind, seconds, parallel, into)
    return found


def _slice(place: Place, subject: Subject, kind: str, seconds: float, parallel: int, into: Figures) -> None:
    for _ in range(TRIES):
        before = _processor(place)
        count, took, p50, _p99, failures = place.load(kind, subject.address, subject.port, seconds, parallel)
        used = _processor(place) - before
        if failures:
            raise PeerError(f"cannot compare: {failures:.0f} connections through {subject.name} failed")
        if count:  # else the machine was busy with others for all of the slice
            into["rate"].append(count * 8 / 1e9 / took if kind == "bulk" else count / took)
            into["cpu"].append(used / count * (1e9 if kind == "bulk" else 1e6))
            into["p50"].append(p50)
            return
    raise PeerError(f"cannot compare: nothing went through {subject.name} in {TRIES} slices of {seconds} s")


def _processor(place: Place) -> float:
    """Seconds used by the clients that have ended, by the server and by whatever relays between them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = sum(cpu_seconds(process.pid) for process in place.running)
    return used.ru_utime + used.ru_stime + alive


def _rows(name: str, unit: str, found: Mapping[str, Figures]) -> list[dict[str, Any]]:
    rows = []
    for subject, figures in found.items():
        row = {"measure": name, "subject": subject, "unit": unit, "rate": _median(figures["rate"])}
        row |= {"cpu": _median(figures["cpu"]), "p50": _median(figures["p50"])}
        for base in (DIRECT, NFTABLES, KUBE_NFTABLES):
            if base in found and subject != base:
                ratio, low, high = paired(figures["rate"], found[base]["rate"])
                row[base] = {"ratio": ratio, "low": low, "high": high}
        rows.append(row)
    return rows


def _median(values: Sequence[float]) -> float:
    return percentile(sorted(values), 0.5)
