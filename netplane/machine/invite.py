"""Invites a further machine: a token, and the one line that a person types there."""

from datetime import UTC, datetime
from pathlib import Path

import yaml

from controlplane.auth.join import Tokens
from controlplane.auth.pki import Authority
from netplane.config import Paths
from netplane.errors import ConfigError


def invite(root: Path, token: str | None = None) -> str:
    """The line to run on the new machine. Raises ConfigError where this is no control plane."""
    paths = Paths(root.absolute())
    try:
        settings = yaml.safe_load((paths.etc / "controlplane.yaml").read_text()) or {}
        host = str(settings["addresses"][0])
    except (FileNotFoundError, KeyError, IndexError, TypeError):
        raise ConfigError(
            "cannot make a token: this machine is no control plane",
            "netplane init --role control-plane makes it one",
        ) from None
    port = int(settings.get("port", 6443))
    authority = Authority.load(paths.pki)
    tokens = Tokens(paths.etc / "join-tokens.json")
    now = datetime.now(UTC)
    if token is None:
        token = tokens.create(now)
    else:
        tokens.add(token, now)
    place = f"[{host}]" if ":" in host else host
    place += "" if port == 6443 else f":{port}"
    return f"netplane node --join {token}@{place} --ca-hash {authority.hash}"
