"""Whether the network still moves: a batch that never ends stops every frame behind it, and no error tells of it."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LOOKS = 10  # within the limit; at most one a second
LONGEST_PAUSE = 1.0  # seconds between two looks


class StuckError(Exception):
    """The network does not come back from a batch."""


class Watchdog:
    """Looks at the age of the batches that run.

    Parameters
    ----------
    limit : float
        Seconds after which a batch is stuck.
    on_stuck : callable
        Told once, with the age of the batch.
    """

    def __init__(self, limit: float, on_stuck: Callable[[float], None]) -> None:
        self.limit = limit
        self.on_stuck = on_stuck
        self._running: dict[object, tuple[float, int]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        """Age of the batch that runs longest; 0 if none does."""
        now = time.monotonic()
        return now - min((began for began, _ in self._running.values()), default=now)

    @property
    def batches(self) -> int:
        """How many batches the network has now."""
        return len(self._running)

    @property
    def tiles(self) -> int:
        """How many tiles the network has now."""
        return sum(tiles for _, tiles in self._running.values())

    @contextmanager
    def over(self, tiles: int) -> Iterator[None]:
        """Watch a batch."""
        key = object()
        self._running[key] = time.monotonic(), tiles
        try:
            yield
        finally:
            del self._running[key]

    def start(self) -> None:
        """Begin to look; needs a running event loop."""
        if math.isfinite(self.limit):
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        """Wait until a batch is over the limit at two looks: the whole process may have been stopped for a while."""
        looks = 0
        while looks < 2:
            await asyncio.sleep(min(self.limit / LOOKS, LONGEST_PAUSE))
            looks = looks + 1 if self.seconds > self.limit else 0
        self.on_stuck(self.seconds)
