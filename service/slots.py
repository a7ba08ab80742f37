"""A few places that live frames get first: what is done by few at once must not be held up by backfill."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.turns import SHADOW, Priority


class Slots:
    """A semaphore with priorities, of which one place, if there are several, is for live frames alone.

    Parameters
    ----------
    places : int
        How many may be taken at once.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._kept: dict[Priority, int] = {"live": 0, "backfill": min(1, places - 1), SHADOW: min(1, places - 1)}
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in self._kept}

    @asynccontextmanager
    async def taken(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        await self._take(priority)
        try:
            yield
        finally:
            self._release()

    async def _take(self, priority: Priority) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # it was given a place in the moment it gave up
            raise

    def _release(self) -> None:
        self._free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        """Give the free places to those who wait, the first of the highest priority first."""
        for priority, queue in self._waiting.items():
            while queue and self._free > self._kept[priority]:
                turn = queue.popleft()
                if not turn.done():
                    self._free -= 1
                    turn.set_result(None)
