"""Whose tile is next: frames take turns, live ones first, and a batch holds tiles of one kind for one network.

Where turns would make a frame miss its deadline, those of its queue go by their deadlines instead.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from lynceus.detector import Found
from lynceus.tiling import Tile
from service.context import request_id
from service.forecast import Need, is_pressed

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
    due: float = math.inf  # monotonic: when the network must be done
    arrived: float = field(default_factory=time.monotonic)
    found: dict[int, Found] = field(default_factory=dict)
    request_id: str = field(default_factory=request_id)  # for the log; empty for the shadow

    def __post_init__(self) -> None:
        self.waiting = deque(range(len(self.tiles)))

    @property
    def kind(self) -> tuple[object, ...]:
        """What the next tile must share with the others of a batch."""
        tile = self.tiles[self.waiting[0]]
        return self.infer, tile.size, tile.mesh, tile.window.shape, tile.least_side

    @property
    def need(self) -> Need:
        """What it still wants of the network."""
        return Need(len(self.waiting), self.due)

    def is_hopeless(self, tile_seconds: float, now: float) -> bool:
        """Whether it would be late even if it went alone from now on."""
        return len(self.waiting) * tile_seconds > self.due - now

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

    @property
    def oldest_by_priority(self) -> dict[str, float]:
        """The same, of the callers of each priority."""
        now = time.monotonic()
        return {
            priority: max((now - job.arrived for job in queue), default=0.0)
            for priority, queue in self._queues.items()
            if priority != SHADOW
        }

    def add(self, job: Job) -> None:
        """Let a frame wait for its turns."""
        self._queues[job.priority].append(job)

    def drop(self, job: Job) -> None:
        """Take a frame out, wherever it is; its other tiles will not run."""
        for queue in self._queues.values():
            if job in queue:
                queue.remove(job)

    def tiles_of(self, priority: Priority) -> int:
        """How many tiles of one priority wait."""
        return sum(len(job.waiting) for job in self._queues[priority])

    def needs(self, *priorities: Priority) -> list[Need]:
        """What the frames of these priorities still want of the network."""
        return [job.need for priority in priorities for job in self._queues[priority]]

    def take(self, most: int, wait_seconds: Callable[[Priority], float] = lambda priority: 0.0) -> Batch:
        """Take a batch: one tile of each frame in turn, all of one kind; each queue gets what those before it leave.

        Parameters
        ----------
        most : int
            Tiles of a batch.
        wait_seconds : callable
            How long a tile keeps those of its priority behind it waiting; 0 if that is not known.
        """
        batch: Batch = []
        kind, now = None, time.monotonic()
        for priority, queue in self._queues.items():
            choose: Any = self._turn_of
            tile_seconds = wait_seconds(priority)
            if len(queue) > 1 and is_pressed([job.need for job in queue], tile_seconds, now):
                choose = partial(_first_due, tile_seconds=tile_seconds, now=now)
            while len(batch) < most and (job := choose(queue, kind)):
                kind = job.kind
                batch.append((job, job.take()))
                queue.remove(job)
                if job.waiting:
                    queue.append(job)
        return batch

    @property
    def _owed(self) -> list[Job]:
        return [job for priority, queue in self._queues.items() if priority != SHADOW for job in queue]

    def _turn_of(self, queue: deque[Job], kind: tuple[object, ...] | None) -> Job | None:
        """The frame whose turn it is; every other turn is the newest live one's, so that no burst starves it."""
        fitting = (job for job in queue if kind in (None, job.kind))
        self._turn += 1
        if self._turn % 2 and queue is self._queues["live"]:
            return max(fitting, key=lambda job: job.arrived, default=None)
        return next(fitting, None)


def _first_due(queue: deque[Job], kind: tuple[object, ...] | None, *, tile_seconds: float, now: float) -> Job | None:
    """The frame that is due first; those that cannot be in time any more come last."""
    fitting = (job for job in queue if kind in (None, job.kind))
    return min(fitting, key=lambda job: (job.is_hopeless(tile_seconds, now), job.due), default=None)
