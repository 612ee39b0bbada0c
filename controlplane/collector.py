"""Keeps Python's garbage collector from looking at the whole cluster.

What the API server and the controllers hold are trees of JSON, a hundred objects a pod: they have no cycles, and
reference counts free them. A full collection still visits each of a million objects, and everything stops meanwhile
(0.1 s and more with 5,000 pods). So what has been there for a while is put out of the collector's sight, and all of
it is looked at together now and then: a cycle that was put away while it was in use is garbage until then.
"""

import asyncio
import gc
from typing import NoReturn

AWAY_SECONDS = 5.0
WHOLE_SECONDS = 3600.0


async def keep_young() -> NoReturn:
    """For ever."""
    while True:
        for _ in range(round(WHOLE_SECONDS / AWAY_SECONDS)):
            gc.freeze()
            await asyncio.sleep(AWAY_SECONDS)
        gc.unfreeze()
        gc.collect()
