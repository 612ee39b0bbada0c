"""`netplane bench api` measures a real control plane with real watchers; how fast they are is not asserted."""

import json
import subprocess
import sys


def test_it_measures_and_loses_no_event() -> None:
    command = [sys.executable, "-m", "netplane", "bench", "api", "-o", "json"]
    sizes = ["--watchers", "20", "--rate", "20", "--seconds", "1", "--pods", "20", "--readers", "2"]
    done = subprocess.run([*command, *sizes], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    figures = {(row["measure"], row["figure"]): row["median"] for row in json.loads(done.stdout)["figures"]}
    for name in ("to everyone", "to one node"):
        assert 0 < figures[name, "age of an event, p50"] <= figures[name, "age of an event, p99"]
    assert figures["to everyone", "events read"] > figures["to one node", "events read"] > 0
    for form in ("JSON", "Table", "in pages of 500"):
        assert figures["requests", f"list of 20 pods, {form}"] > 0
