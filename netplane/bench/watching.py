"""A process full of watchers: `python -m netplane.bench.watching`. It reads events and says how old they are.

Each watcher is a connection of its own with the request of a kube-proxy, a kubelet or a `kubectl get --watch`.
Whoever writes puts the time of writing into the object (`MARK`, CLOCK_MONOTONIC, the same for all processes); an
event's age is taken when its bytes have been read and decrypted.
"""

import json
import select
import ssl
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from netplane.bench.wire import ENOUGH, Door, poller, read_head, receive, request
from netplane.kube.kubeconfig import Kubeconfig

MARK = "bench/sent"
DIGITS = 20  # of the time behind it
_BEFORE = f'"{MARK}":"'.encode()
_WHOLE = len(_BEFORE) + DIGITS
BUCKET = 100_000  # nanoseconds: an age is counted to a tenth of a millisecond
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def mark() -> str:
    """The time, as it is put behind MARK."""
    return f"{time.monotonic_ns():0{DIGITS}}"


@dataclass(frozen=True, slots=True)
class Watchers:
    """So many of one sort: ``path`` and ``query`` as such a client asks."""

    count: int
    path: str
    query: Mapping[str, str]
    accept: str = "application/json"

    def requests(self) -> list[bytes]:
        """One a watcher; ``{number}`` in a query's value is which of them."""
        shared = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "600"}
        made = []
        for number in range(self.count):
            own = {name: value.replace("{number}", str(number)) for name, value in self.query.items()}
            target = f"{self.path}?{urlencode({**shared, **own})}"
            made.append(request("GET", target, headers={"Accept": self.accept}))
        return made


def watch(door: Door, asked: list[bytes]) -> dict[int, ssl.SSLSocket]:
    """Connections on which watches have begun, by descriptor."""
    connections = {}
    for one in asked:
        connection = door.connect()
        connection.sendall(one)
        read_head(connection)
        connections[connection.fileno()] = connection
    return connections


def read(connections: Mapping[int, ssl.SSLSocket], until_told: Any) -> dict[str, Any]:
    """Read events until a line comes on ``until_told``.

    The ages by the second of their writing: {second: {tenths of a millisecond: how many}}.
    """
    ages: dict[int, Counter[int]] = {}
    rests: dict[int, bytes] = dict.fromkeys(connections, b"")
    buffer = bytearray(ENOUGH)
    poll, ended = poller(connections), 0
    poll.register(until_told.fileno(), select.EPOLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == until_told.fileno():
                return {"ages": {second: dict(found) for second, found in ages.items()}, "ended": ended}
            begun = len(rests[descriptor])
            buffer[:begun] = rests[descriptor]
            end = begun + receive(connections[descriptor], memoryview(buffer)[begun:])
            if end == begun:
                poll.unregister(descriptor)
                ended += 1
            rests[descriptor] = _count(buffer, end, ages)


def _count(buffer: bytearray, end: int, ages: dict[int, Counter[int]]) -> bytes:
    """Note the age of each mark; what may be the beginning of another comes back."""
    now, past, at = time.monotonic_ns(), 0, buffer.find(_BEFORE, 0, end)
    while at >= 0 and at + _WHOLE <= end:
        past = at + _WHOLE
        sent = int(buffer[at + len(_BEFORE) : past])
        ages.setdefault(sent // 1_000_000_000, Counter())[(now - sent) // BUCKET] += 1
        at = buffer.find(_BEFORE, past, end)
    return bytes(buffer[max(past, end - _WHOLE + 1) : end])


def main() -> None:
    """Arguments: a kubeconfig and the watchers as JSON. Says "ready", reads until told, prints what it found."""
    kubeconfig, described = sys.argv[1:]
    door = Door.of(Kubeconfig.load(Path(kubeconfig)))
    asked = [one for words in json.loads(described) for one in Watchers(**words).requests()]
    connections = watch(door, asked)
    print("ready", flush=True)  # noqa: T201 - a protocol on pipes
    began = time.process_time()
    found = read(connections, sys.stdin)
    print(json.dumps({**found, "cpu": time.process_time() - began}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
