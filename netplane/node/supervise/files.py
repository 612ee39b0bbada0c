"""Writes supervise.yaml: which daemons make a machine what it is.

One place knows it, so that a lab machine and a machine that runs `netplane up` are the same.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from netplane.config import Paths

API_LOOPBACK = "api-loopback"
MASTER = ("controlplane",)
# The order in which they are started: who is asked first is started first.
NODE = ("cni", "node", "proxy", "dns")


def command(daemon: str, root: Path) -> list[str]:
    """The argv of a daemon on the machine at `root`, run by the interpreter that runs us."""
    words = ["cni", "serve"] if daemon == "cni" else [daemon]
    return [sys.executable, "-m", "netplane", *words, "--root", str(root)]


def write(root: Path, daemons: Iterable[str], listeners: Mapping[str, Sequence[str]] | None = None) -> None:
    """Replace supervise.yaml on the machine at `root`; `listeners` are the inherited sockets of a daemon."""
    given = listeners or {}
    document = {
        "daemons": [
            {"name": name, "command": command(name, root), "listeners": list(given.get(name, ()))}
            for name in daemons
        ]
    }
    write_yaml(Paths(root).etc / "supervise.yaml", document)


def write_yaml(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a settings file by rename: who reads it sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(yaml.safe_dump(dict(document), sort_keys=False))
    partial.replace(path)
