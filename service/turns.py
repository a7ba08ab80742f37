"""Whose tile is next: frames take turns, live ones first, and a batch holds tiles of one kind."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lynceus.detector import Found
from lynceus.tiling import Tile

Priority = Literal["live", "backfill"]


@dataclass(eq=False)
class Job:
    """The tiles of one frame, and what is known of them so far."""

    tiles: Sequence[Tile]
    answer: asyncio.Future[list[Found]]
    started: Callable[[], None]
    arrived: float = field(default_factory=time.monotonic)
    found: dict[int, Found] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.tiles)))

    @property
    def kind(self) -> tuple[object, ...]:
        """What the next tile must share with the others of a batch."""
        tile = self.tiles[self.waiting[0]]
        return tile.size, tile.mesh, tile.window.shape

    def take(self) -> int:
        """The index of the next tile; it waits no longer."""
        if len(self.waiting) == len(self.tiles):
            self.started()
        return self.waiting.popleft()

    def keep(self, index: int, found: Found) -> None:
        """Note a result; the last one is the answer."""
        self.found[index] = found
        if len(self.found) == len(self.tiles) and not self.answer.done():
            self.answer.set_result([self.found[index] for index in range(len(self.tiles))])

    def fail(self, error: Exception) -> None:
        """Give the frame up."""
        if not self.answer.done():
            self.answer.set_exception(error)


Batch = list[tuple[Job, int]]


class Turns:
    """The frames that have tiles waiting."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[Job]] = {"live": deque(), "backfill": deque()}
        self._turn = 0

    @property
    def tiles(self) -> int:
        """How many tiles wait."""
        return sum(len(job.waiting) for queue in self._queues.values() for job in queue)

    @property
    def oldest_seconds(self) -> float:
        """How long the longest waiting frame has been here; 0 if nothing waits."""
        arrivals = [job.arrived for queue in self._queues.values() for job in queue]
        return time.monotonic() - min(arrivals) if arrivals else 0.0

    def add(self, job: Job, priority: Priority) -> None:
        """Let a frame wait for its turns."""
        self._queues[priority].append(job)

    def drop(self, job: Job) -> None:
        """Take a frame out, wherever it is; its other tiles will not run."""
        for queue in self._queues.values():
            if job in queue:
                queue.remove(job)

    def take(self, most: int) -> Batch:
        """Take a batch: one tile of each frame in turn, backfill where live frames leave room, all of one kind."""
        batch: Batch = []
        kind = None
        for queue in self._queues.values():
            while len(batch) < most and (job := self._pick(queue, kind)):
                kind = job.kind
                batch.append((job, job.take()))
                queue.remove(job)
                if job.waiting:
                    queue.append(job)
        return batch

    def _pick(self, queue: deque[Job], kind: tuple[object, ...] | None) -> Job | None:
        """The frame whose turn it is; every other turn is the newest live one's, so that no burst starves it."""
        fitting = (job for job in queue if kind in (None, job.kind))
        self._turn += 1
        if self._turn % 2 and queue is self._queues["live"]:
            return max(fitting, key=lambda job: job.arrived, default=None)
        return next(fitting, None)
