"""What do open connections notice when a process of the proxy is restarted or killed? Thousands of them, all in use.

Why the slowest exchange: it bounds from above how long any connection stood still. What it is when nothing is
lost stands beside it, because a busy machine stops everybody now and then.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netplane.bench.place import CLUSTER_IP, PORT, Place, family, place
from netplane.bench.statistics import percentile
from netplane.errors import PeerError

BEFORE, AFTER = 1.0, 3.0  # seconds around the loss
RATE = 2500  # exchanges a second


def measure(connections: int, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row a loss. Raises ConfigError, PeerError."""
    slowest: dict[str, list[float]] = {name: [] for name in LOSSES}
    cut = dict.fromkeys(LOSSES, 0)
    with (
        tempfile.TemporaryDirectory(prefix="np-bench-") as directory,
        place(Path(directory), say, haproxy=False, supervised=True) as here,
    ):
        for number in range(rounds):
            for name in random.sample(list(LOSSES), len(LOSSES)):
                say(f"round {number + 1} of {rounds}: {name}")
                seconds, failures = _round(here, LOSSES[name], connections)
                slowest[name].append(seconds * 1000)
                cut[name] += failures
    return [
        {
            "loss": name,
            "connections": connections * rounds,
            "cut": cut[name],
            "median": percentile(sorted(found), 0.5),
            "longest": max(found),
        }
        for name, found in slowest.items()
    ]


def _round(here: Place, loss: Callable[[Place], None], connections: int) -> tuple[float, int]:
    """Seconds of the slowest exchange, and how many connections ended."""
    command = [str(here.directory / "load"), "pace", CLUSTER_IP, str(PORT), str(RATE), str(connections)]
    with here.start("client", command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        if client.stdout.readline() != b"ready\n":
            raise PeerError(f"cannot open {connections} connections: the client ended")
        time.sleep(BEFORE)
        loss(here)
        time.sleep(AFTER)
        said, _ = client.communicate(b"\n")
    _, seconds, _, _, failures = (float(word) for word in said.split())
    return seconds, int(failures)


def _supervise(here: Place, word: str) -> None:
    root = str(here.directory / "root")
    here.run("node", [sys.executable, "-m", "netplane", "supervise", "--root", root, word, "proxy"])


def _kill(here: Place, name: str) -> None:
    pid = next(one.pid for one in here.running if "supervise" in one.args)  # type: ignore[operator]
    for one in family(pid):
        if Path(f"/proc/{one}/comm").read_text().strip() == name:
            os.kill(one, signal.SIGKILL)


LOSSES: dict[str, Callable[[Place], None]] = {
    "nothing": lambda _here: None,
    "restart": lambda here: _supervise(here, "restart"),
    "kill -9 of the proxy": lambda here: _supervise(here, "kill"),
    "kill -9 of the worker": lambda here: _kill(here, "netplane-worker"),
    "kill -9 of the keeper": lambda here: _kill(here, "netplane-keeper"),
}
