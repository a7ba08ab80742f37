"""Whose tile is next: frames take turns, live ones first, and a batch holds tiles of one kind for one network."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lynceus.detector import Found
from lynceus.tiling import Tile

Infer = Callable[[Sequence[Tile]], list[Found]]
Priority = Literal["live", "backfill", "shadow"]
SHADOW: Priority = "shadow"  # nobody waits for it


@dataclass(eq=False)
class Job:
    """The tiles of one frame, the network that shall look at them, and what is known of them so far."""

    tiles: Sequence[Tile]
    infer: Infer
    answer: asyncio.Future[list[Found]]
    started: Callable[[], None]
    priority: Priority = "live"
    arrived: float = field(default_factory=time.monotonic)
    found: dict[int, Found] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.tiles)))

    @property
    def kind(self) -> tuple[object, ...]:
        """What the next tile must share with the others of a batch."""
        tile = self.tiles[self.waiting[0]]
        return self.infer, tile.size, tile.mesh, tile.window.shape

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
        self._queues: dict[Priority, deque[Job]] = {"live": deque(), "backfill": deque(), SHADOW: deque()}
        self._turn = 0

    @property
    def tiles(self) -> int:
        """How many tiles wait."""
        return sum(len(job.waiting) for queue in self._queues.values() for job in queue)

    @property
    def owed_tiles(self) -> int:
        """How many tiles wait that a caller waits for."""
        return sum(len(job.waiting) for job in self._owed)

    @property
    def oldest_seconds(self) -> float:
        """How long the longest waiting frame of a caller has been here; 0 if none waits."""
        arrivals = [job.arrived for job in self._owed]
        return time.monotonic() - min(arrivals) if arrivals else 0.0

    def add(self, job: Job) -> None:
        """Let a frame wait for its turns."""
        self._queues[job.priority].append(job)

    def drop(self, job: Job) -> None:
        """Take a frame out, wherever it is; its other tiles will not run."""
        for queue in self._queues.values():
            if job in queue:
                queue.remove(job)

    def take(self, most: int) -> Batch:
        """Take a batch: one tile of each frame in turn, all of one kind; each queue gets what those before it leave."""
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

    @property
    def _owed(self) -> list[Job]:
        return [job for priority, queue in self._queues.items() if priority != SHADOW for job in queue]

    def _pick(self, queue: deque[Job], kind: tuple[object, ...] | None) -> Job | None:
        """The frame whose turn it is; every other turn is the newest live one's, so that no burst starves it."""
        fitting = (job for job in queue if kind in (None, job.kind))
        self._turn += 1
        if self._turn % 2 and queue is self._queues["live"]:
            return max(fitting, key=lambda job: job.arrived, default=None)
        return next(fitting, None)
