"""Many at once, or one alone: the plugins' garbage collection must not run beside an ADD.

GC frees whatever its list of valid attachments does not name. An ADD that ends, or begins, after that list was read
is not on it, and would be freed while its pod runs. Source: CNI specification 1.1.0, section 4, "GC".
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Who wants to be alone waits for those who are at it; those who come later wait for it."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._beside = 0
        self._alone = False
        self._wanted_alone = 0

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Run at the same time as others of this sort."""
        while self._alone or self._wanted_alone:
            await self._changed.wait()
        self._beside += 1
        try:
            yield
        finally:
            self._beside -= 1
            self._tell()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Run while nobody else does."""
        self._wanted_alone += 1
        try:
            while self._alone or self._beside:
                await self._changed.wait()
            self._alone = True
        finally:
            self._wanted_alone -= 1
            self._tell()
        try:
            yield
        finally:
            self._alone = False
            self._tell()

    def _tell(self) -> None:
        """Everyone who waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()
