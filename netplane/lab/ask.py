"""Sends requests to one URL and prints what answered: `python -m netplane.lab.ask URL COUNT`.

A plain client as any program in a pod is one: it resolves the name, connects, asks, and connects anew for the
next request. Standard library only, so that it starts fast.
"""

import json
import sys
import time
import urllib.error
import urllib.request
from typing import Any

TIMEOUT = 5.0
PATIENCE = 15.0
PAUSE = 0.1


def ask(url: str) -> dict[str, Any]:
    """One request on a connection of its own; what `netplane/echo` answered, or {"error": why}."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return dict(json.load(answer))
    except urllib.error.URLError as error:
        return {"error": str(error.reason)}
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def main(url: str, count: int) -> int:
    """Waits until the URL answers at all (a Service is known everywhere only after a moment), then counts."""
    deadline = time.monotonic() + PATIENCE
    while "error" in ask(url) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    json.dump([ask(url) for _ in range(count)], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
