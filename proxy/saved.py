"""What was forwarded last, on disk, for a start while the API is away.

Why best effort: a snapshot that cannot be written or read costs a start without the API, never forwarding.
"""

import contextlib
import logging
import os
from dataclasses import replace
from pathlib import Path

import orjson

from proxy.codec import decode_snapshot, encode_snapshot
from proxy.model import Snapshot

log = logging.getLogger(__name__)

FORMAT = 1


def save(path: Path, snapshot: Snapshot) -> bool:
    """Replace the file whole; False, and a warning that says why, where it cannot be. Blocking."""
    document = {"format": FORMAT, **encode_snapshot(snapshot)}
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("wb") as file:
            file.write(orjson.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        log.warning("cannot keep the last snapshot in %s: %s", path, error.strerror)
        with contextlib.suppress(OSError):
            fresh.unlink()
        return False
    return True


def load(path: Path) -> Snapshot | None:
    """The snapshot kept, or None where there is none that can be used (a warning says why). Blocking."""
    try:
        document = orjson.loads(path.read_bytes())
        if document["format"] != FORMAT:
            log.warning("the snapshot in %s has format %s, not %d", path, document["format"], FORMAT)
            return None
        return replace(decode_snapshot(document), remembered=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("cannot use the last snapshot in %s: %s", path, error)
        return None
