"""What do open connections notice when a process of the proxy is restarted, upgraded or killed? Thousands, all in use.

Why two answers. What the processes record is exact and covers every connection: the time from the moment at which one
stopped watching it to that at which the next one did. What a probe sees covers some of them, with all else that may
hold a message up: how long it was on its way through the proxy, by the kernel's clock at each end, so that a slow
client or server does not count. What that is when nothing is lost stands beside it.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import netplane
from netplane.bench.place import CLUSTER_IP, PORT, SERVED, SERVER, Place, Services, family, place
from netplane.bench.statistics import summarize
from netplane.errors import PeerError
from proxy.userspace import observe

BEFORE, AFTER = 1.0, 1.0  # seconds around the loss
TAKEN_OVER = 30.0  # seconds in which all connections must be, as long as a proxy that stopped holds them
RATE = 1000  # exchanges a second over all connections
PROBES, INTERVAL = 20, 0.008  # connections with a message each so many seconds
SERVICES: Services = {(CLUSTER_IP, PORT + number): [(SERVER, SERVED + number)] for number in range(2)}
PACKAGES = ("netplane", "cni", "proxy", "controlplane")


@dataclass(frozen=True, slots=True)
class Seen:
    """One loss. ``stood_still``: milliseconds, as recorded. ``slowest``: of a probe's messages, milliseconds."""

    cut: int
    slowest: float
    stood_still: float | None


def measure(connections: int, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row a loss. Raises ConfigError, PeerError."""
    seen: dict[str, list[Seen]] = {name: [] for name in LOSSES}
    with tempfile.TemporaryDirectory(prefix="np-bench-") as directory:
        _install(Path(directory))
        code = {"PYTHONPATH": str(_code(Path(directory)))}
        with place(
            Path(directory), say, haproxy=False, services=SERVICES, supervised=True, environment=code
        ) as here:
            for number in range(rounds):
                for name in random.sample(list(LOSSES), len(LOSSES)):
                    say(f"round {number + 1} of {rounds}: {name}")
                    seen[name].append(_round(here, name, connections))
    return [_row(name, connections, found) for name, found in seen.items()]


def _row(name: str, connections: int, seen: list[Seen]) -> dict[str, Any]:
    recorded = [one.stood_still for one in seen if one.stood_still is not None]
    return {
        "loss": name,
        "connections": connections * len(seen),
        "cut": sum(one.cut for one in seen),
        "stoodStill": asdict(summarize(recorded)) if recorded else None,
        "slowest": asdict(summarize([one.slowest for one in seen])),
    }


def _round(here: Place, name: str, connections: int) -> Seen:
    load, pipe = str(here.directory / "load"), subprocess.PIPE
    pace = [load, "pace", CLUSTER_IP, str(PORT), str(RATE), str(connections)]
    probe = [load, "probe", CLUSTER_IP, str(PORT + 1), str(INTERVAL), str(PROBES)]
    loss, cause = LOSSES[name]
    with (
        here.start("client", pace, stdin=pipe, stdout=pipe) as many,
        here.start("client", probe, stdin=pipe, stdout=pipe) as few,
    ):
        for client in (many, few):
            assert client.stdout is not None
            if client.stdout.readline() != b"ready\n":
                raise PeerError(f"cannot open {connections} connections: the client ended")
        time.sleep(BEFORE)
        before = _recorded(here, cause)
        loss(here)
        _wait_for_another(here, cause, before, connections)
        time.sleep(AFTER)
        recorded = _recorded(here, cause)
        said = [client.communicate(b"\n")[0].split() for client in (few, many)]
    cut = sum(int(words[4]) for words in said)
    return Seen(cut, float(said[0][1]) * 1000, recorded[1] * 1000 if recorded else None)


def _recorded(here: Place, cause: str) -> tuple[int, float] | None:
    """How many connections were taken over last, and for how many seconds one stood still at most."""
    if not cause:
        return None
    try:
        status = observe.ask(here.directory / "root/run/netplane/proxy.sock", "status")
    except PeerError:  # between two proxies
        return (0, 0.0)
    flows, seconds = status["takeovers"][cause]
    return flows, seconds


def _wait_for_another(here: Place, cause: str, before: tuple[int, float] | None, connections: int) -> None:
    deadline = time.monotonic() + TAKEN_OVER
    while (now := _recorded(here, cause)) is not None and (now == before or now[0] < connections):
        if time.monotonic() > deadline:
            raise PeerError(f"cannot measure: {now[0]} of {connections} connections were taken over")
        time.sleep(0.05)


# -- losses --------------------------------------------------------------------------------------------


def _supervise(here: Place, word: str) -> None:
    root = str(here.directory / "root")
    here.run("node", [sys.executable, "-m", "netplane", "supervise", "--root", root, word, "proxy"])


def _upgrade(here: Place) -> None:
    """Other files, of which nothing has been read or compiled to bytecode yet."""
    _install(here.directory)
    _supervise(here, "restart")


_versions = count()


def _install(directory: Path) -> None:
    source, version = Path(netplane.__file__).parents[1], directory / f"code-{next(_versions)}"
    for package in PACKAGES:
        shutil.copytree(source / package, version / package, ignore=shutil.ignore_patterns("__pycache__"))
    link = directory / "next"
    link.symlink_to(version)
    link.rename(_code(directory))


def _code(directory: Path) -> Path:
    return directory / "code"


def _kill(here: Place, name: str) -> None:
    pid = next(one.pid for one in here.running if "supervise" in one.args)  # type: ignore[operator]
    for one in family(pid):
        if Path(f"/proc/{one}/comm").read_text().strip() == name:
            os.kill(one, signal.SIGKILL)


# What is done, and under which cause the proxy counts it.
LOSSES: dict[str, tuple[Callable[[Place], None], str]] = {
    "nothing": (lambda _here: None, ""),
    "restart": (lambda here: _supervise(here, "restart"), "restart"),
    "upgrade": (_upgrade, "restart"),
    "kill -9 of the proxy": (lambda here: _supervise(here, "kill"), "restart"),
    "kill -9 of the worker": (lambda here: _kill(here, "netplane-worker"), "kill"),
    "kill -9 of the keeper": (lambda here: _kill(here, "netplane-keeper"), "restart"),
}
