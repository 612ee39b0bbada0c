"""A control plane backs itself up: at regular times, beside its store, and keeps the newest few.

They are for a file that was damaged or a command that was wrong. They lie on the same disk: whoever must survive its
loss copies them elsewhere (docs/recovery.md).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from controlplane.store.backup import back_up, backups, name_for, prune
from controlplane.store.contract import StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often, in seconds, and how many are kept."""

    seconds: float
    keep: int


async def keep_backed_up(
    store: Path, revision: Callable[[], int], directory: Path, schedule: Schedule
) -> NoReturn:
    """For ever. A time at which nothing has changed is passed over, a failure is logged and tried at the next."""
    saved = 0
    await asyncio.sleep(_wait(directory, schedule.seconds))
    while True:
        if (now := revision()) != saved:
            try:
                target = directory / name_for(datetime.now(UTC))
                await asyncio.to_thread(back_up, store, target)
                prune(directory, schedule.keep)
                saved = now
                log.info("the store is backed up as %s", target)
            except StoreError as error:
                log.error("the store is not backed up: %s", error)
        await asyncio.sleep(schedule.seconds)


def _wait(directory: Path, seconds: float) -> float:
    """A start does not begin the time anew, so that a control plane that restarts often is backed up, too."""
    newest = next(iter(backups(directory)), None)
    if newest is None:
        return 0.0
    return min(max(newest.stat().st_mtime + seconds - time.time(), 0.0), seconds)
