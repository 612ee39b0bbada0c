"""A benchmark's figures: text for people, and whole for programs, with how busy the machine was."""

import json

from netplane.bench.statistics import summarize
from netplane.bench.sync import Row
from netplane.cli import main as cli

ROW = Row("netplane", 1000, 5, summarize([0.5, 0.25]), summarize([0.4]), summarize([0.0001]))


def test_figures_come_as_text_or_whole(capsys, monkeypatch):
    monkeypatch.setattr("netplane.bench.sync.measure", lambda _sizes, **_options: [ROW])
    assert cli.main(["bench", "sync"]) == 0
    shown = capsys.readouterr()
    assert "netplane   1000       0.500" in shown.out
    assert "0.10" in shown.out
    assert shown.err.startswith("netplane: load averages of this machine before ")
    assert cli.main(["bench", "sync", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"loadBefore", "loadAfter", "figures"}
    assert found["figures"][0]["update"]["median"] == 0.0001
