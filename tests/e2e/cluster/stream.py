"""A steady stream of requests, run inside a lab machine: `stream.py URL RATE [SECONDS]`.

Every request is a connection of its own, so that each one meets the proxy's choice of an endpoint. It ends when
its standard input closes (or after SECONDS) and prints one JSON line: how many were answered, by which pod and
node, which client address they saw, and every failure with its moment and cause.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

TIMEOUT = 10.0  # seconds: what a patient client would wait


class Stream:
    def __init__(self, url: str, rate: float, seconds: float) -> None:
        self.target = urlsplit(url)
        self.interval = 1 / rate
        self.end = time.monotonic() + seconds
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.next_start = time.monotonic()
        self.answers: Counter[str] = Counter()
        self.nodes: Counter[str] = Counter()
        self.clients: Counter[str] = Counter()
        self.failures: list[dict[str, object]] = []
        self.slowest = 0.0

    def worker(self) -> None:
        while not self.stop.is_set() and time.monotonic() < self.end:
            with self.lock:
                start, self.next_start = self.next_start, self.next_start + self.interval
            if self.stop.wait(max(0.0, start - time.monotonic())):
                return
            self.request()

    def request(self) -> None:
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection(self.target.hostname, self.target.port, timeout=TIMEOUT)
            try:
                connection.request("GET", self.target.path or "/", headers={"Connection": "close"})
                answer = json.loads(connection.getresponse().read())
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = f"{type(error).__name__}: {error}"
            with self.lock:
                after = round(time.monotonic() - began, 3)
                self.failures.append({"at": time.time(), "after": after, "cause": cause})
            return
        with self.lock:
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answers[answer["pod"]] += 1
            self.nodes[answer["node"]] += 1
            self.clients[answer["client"]] += 1

    def run(self) -> None:
        # Enough workers that requests which wait for a dead endpoint's deadline do not slow the stream.
        workers = [threading.Thread(target=self.worker, daemon=True) for _ in range(16)]
        for thread in workers:
            thread.start()
        print("streaming", flush=True)
        threading.Thread(target=self.until_closed, daemon=True).start()
        for thread in workers:
            thread.join()
        report = {
            "answers": self.answers,
            "nodes": self.nodes,
            "clients": self.clients,
            "failures": self.failures,
            "slowest": round(self.slowest, 3),
        }
        print(json.dumps(report), flush=True)

    def until_closed(self) -> None:
        sys.stdin.read()
        self.stop.set()


if __name__ == "__main__":
    Stream(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 300.0).run()
