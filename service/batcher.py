"""Tiles of many frames, brought to the network in full batches and in fair order.

All state belongs to the event loop; only `infer` runs in threads. So there are no locks.
"""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch

from lynceus.detector import Found
from lynceus.errors import DetectionError, LynceusError
from lynceus.tiling import Tile
from service.forecast import CERTAINTY, Need, lateness
from service.pace import Pace
from service.refusals import DeviceFullError, OverloadedError
from service.turns import SHADOW, Batch, Infer, Job, Priority, Turns
from service.watchdog import StuckError, Watchdog

BACKFILL_ROOM = 0.5  # of the queue: the rest is for live frames, however much backfill comes
NICENESS = 5  # of the threads that run it on a CPU: who asks, and who decodes, must not wait for a tile to end
HOST_MEMORY = ("can't allocate memory", "not enough memory")  # torch's words on a CPU, in a plain RuntimeError

logger = logging.getLogger(__name__)


class TileBatcher:
    """A bounded queue of tiles in front of a device; each frame says which network shall look at it.

    Parameters
    ----------
    workers : int
        Threads that run networks.
    ahead : int
        Full batches that are at hand when a thread is done, so that it need not wait for the event loop.
    one_thread : bool
        Keep torch from starting threads of its own in each worker, as is best on a CPU.
    max_batch_tiles, max_queue_tiles : int
        Most tiles of a batch, and most that may wait.
    max_window : float
        Longest wait for company, in seconds.
    on_batch : callable
        Told the size of every batch.
    on_fatal : callable
        Told of an error after which this process can do no more work.
    is_lost : callable
        Whether the device stopped answering for good; asked after a failure.
    stuck_seconds : float
        A batch that runs for longer will never end, and neither will this process's work.

    Attributes
    ----------
    pace : Pace
        What the work so far taught.
    owed_frames : int
        Frames admitted so far that a caller waited for.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        ahead: int = 0,
        one_thread: bool = True,
        max_batch_tiles: int = 1,
        max_queue_tiles: int = 2048,
        max_window: float = 0.005,
        on_batch: Callable[[int], None] = lambda size: None,
        on_fatal: Callable[[Exception], None] = lambda error: None,
        is_lost: Callable[[], bool] | None = None,
        stuck_seconds: float = math.inf,
    ) -> None:
        self.workers = workers
        self.ahead = ahead
        self.max_batch_tiles = max_batch_tiles
        self.max_queue_tiles = max_queue_tiles
        self.on_batch = on_batch
        self.on_fatal = on_fatal
        self.is_lost = is_lost or cuda_is_lost
        self.pace = Pace(max_window, workers)
        self._watchdog = Watchdog(stuck_seconds, self._on_stuck)
        self._fits = max_batch_tiles  # into the device's memory, as far as is known
        self._turns = Turns()
        self.owed_frames = 0
        self._open: set[Job] = set()
        self._arrived = asyncio.Event()
        self._closed: Exception | None = None
        self._pool = ThreadPoolExecutor(workers, "network", initializer=settle, initargs=(one_thread,))
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def queue_tiles(self) -> int:
        """Tiles that wait for the network, and callers for them."""
        return self._turns.owed_tiles

    @property
    def oldest_seconds(self) -> float:
        """How long the longest waiting frame has been in the queue; 0 if nothing waits."""
        return self._turns.oldest_seconds

    @property
    def oldest_by_priority(self) -> dict[str, float]:
        """The same, of live frames and of backfill, which may wait for long and harms nobody."""
        return self._turns.oldest_by_priority

    @property
    def stuck_seconds(self) -> float:
        """How long the network has been at the batch that runs longest; 0 if it is idle."""
        return self._watchdog.seconds

    @property
    def alive(self) -> bool:
        """Whether tiles are still being worked on."""
        return not any(task.done() for task in self._tasks) and self._closed is None

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.workers + self.ahead)]
        self._watchdog.start()

    async def close(self) -> None:
        """Admit no more, finish what is there, and stop."""
        self._closed = self._closed or OverloadedError("the server is stopping")
        await asyncio.gather(*(job.answer for job in self._open), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown)
        await self._watchdog.close()

    async def submit(
        self,
        tiles: Sequence[Tile],
        infer: Infer,
        priority: Priority = "live",
        started: Callable[[], None] = lambda: None,
        due: float = math.inf,
    ) -> list[Found]:
        """Look at the tiles of one frame.

        Cancelling the call frees the tiles that wait; a deadline is a cancellation by `asyncio.timeout`.

        Parameters
        ----------
        tiles : sequence of Tile
            Admitted all or none.
        infer : callable
            Looks at the tiles of one batch; called in a worker thread. Tiles for two networks never share a batch.
        priority : {"live", "backfill", "shadow"}
            Backfill takes what live frames leave, shadow what both leave.
        started : callable
            Told when the first tile leaves the queue.
        due : float
            When the network must be done, in monotonic time.

        Returns
        -------
        list of Found
            One a tile, in order.

        Raises
        ------
        OverloadedError
            If there is no room for them, or too little time.
        DeviceFullError
            If not even one of them fits into the device's memory.
        DetectionError
            If the network fails on one of them.
        """
        if priority != SHADOW:
            self.check_room(len(tiles), priority)
            self.check_due(len(tiles), due, priority)
            self.owed_frames += 1
        job = Job(tiles, infer, asyncio.get_running_loop().create_future(), started, priority, due)
        self._turns.add(job)
        self._open.add(job)
        self._arrived.set()
        try:
            return await job.answer
        finally:
            self._drop(job)

    def check_room(self, tiles: int = 1, priority: Priority = "live") -> None:
        """Raise OverloadedError if so many tiles cannot be admitted now; backfill must leave room for live frames."""
        if self._closed is not None:
            raise self._closed
        backfill, room = self._turns.tiles_of("backfill"), int(BACKFILL_ROOM * self.max_queue_tiles)
        if priority == "live":
            waiting, most = self._turns.tiles_of("live") + min(backfill, room), self.max_queue_tiles
        else:
            waiting, most = self.queue_tiles, room
        excess = waiting + tiles - most
        if waiting and excess > 0:
            delay = min(excess, waiting) * self.pace.queue_seconds
            raise OverloadedError(f"{waiting} tiles wait already, there is no room for {tiles} more", delay)

    def check_due(self, tiles: int, due: float, priority: Priority) -> None:
        """As `check_time`, of a frame whose tiles are known and that is due in monotonic time."""
        spare = (1 - CERTAINTY) * (due - time.monotonic()) if math.isfinite(due) else 0.0
        self.check_time(Need(tiles, due), priority, spare=spare)

    def check_time(
        self,
        need: Need,
        priority: Priority,
        coming: Sequence[tuple[Priority, Need]] = (),
        spare: float = 0.0,
    ) -> None:
        """Raise OverloadedError if a frame would be late, or would make one late that is admitted.

        A frame that nothing is ahead of is always tried.

        Parameters
        ----------
        need : Need
            Of the frame.
        priority : {"live", "backfill"}
            Live frames are not held up by backfill; backfill has what they leave.
        coming : sequence of (priority, Need)
            Frames on their way to the queue.
        spare : float
            Seconds before it is due that it must be done.
        """
        live = [*self._turns.needs("live"), *(one for kind, one in coming if kind == "live")]
        seconds = self.pace.wait_seconds(priority)
        others, busy = live, self._watchdog.tiles * self.pace.queue_seconds
        if priority != "live":
            busy += sum(one.tiles for one in live) * seconds
            others = [*self._turns.needs("backfill"), *(one for kind, one in coming if kind != "live")]
        if not others and not live:
            return
        late = lateness(need, others, seconds, time.monotonic() + busy, spare)
        if late > 0:
            raise OverloadedError(f"{self.queue_tiles} tiles wait already, the answer would come too late", late)

    async def _work(self) -> None:
        while True:
            await self._run(await self._next())

    async def _next(self) -> Batch:
        """Wait for tiles, then a little for company."""
        while True:
            while not self._may_take(waiting := self._turns.tiles):
                self._arrived.clear()
                await self._arrived.wait()
            if waiting < self._fits:
                await asyncio.sleep(self.pace.window(waiting))
            if batch := self._turns.take(self._fits, self.pace.wait_seconds):  # another worker may have been faster
                self.on_batch(len(batch))
                return batch

    def _may_take(self, waiting: int) -> bool:
        """Whether a thread is free for what waits; while none is, a full batch is made ready, and others grow."""
        return waiting > 0 and (self._watchdog.batches < self.workers or waiting >= self._fits)

    async def _run(self, batch: Batch) -> None:
        """Run a batch; where it fails, run its parts, until those that cannot work have failed alone."""
        for part in await self._attempt(batch):
            await self._run(part)

    async def _attempt(self, batch: Batch) -> list[Batch]:
        """Run a batch and return what is to be tried again."""
        tiles = [job.tiles[index] for job, index in batch]
        try:
            infer = batch[0][0].infer
            with self._watchdog.over(len(batch)):
                found, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, _timed, infer, tiles)
            for (job, index), one in zip(batch, found, strict=True):
                job.keep(index, one)
            self.pace.learn(seconds, batch, len(self._open))
            self._fits = min(self._fits + (len(batch) == self._fits), self.max_batch_tiles)
            return []
        except Exception as error:  # whatever a frame makes the network raise, the others must not suffer
            logger.warning(
                "the network failed on a batch of %d tiles", len(batch), exc_info=True, extra=_requests(batch)
            )
            error.with_traceback(None)  # it holds the batch's tensors, and a retry needs their memory
            if self.is_lost():
                self._die(error)
                return []
            if is_out_of_memory(error):
                return self._made_smaller(batch, error)
            parts = _frames(batch)
            if len(parts) > 1:
                return parts
            self._fail(batch[0][0], error)
            return []

    def _made_smaller(self, batch: Batch, error: Exception) -> list[Batch]:
        """Halve a batch that did not fit, and those to come; they grow again tile by tile."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()  # what is cached in pieces of the wrong size
        self._fits = max(len(batch) // 2, 1)
        if len(batch) > 1:
            return _halves(batch)
        self._fail(batch[0][0], error, DeviceFullError("a tile does not fit into the memory of the network's device"))
        return []

    def _fail(self, job: Job, error: Exception, failure: LynceusError | None = None) -> None:
        failure = failure or DetectionError("the network failed on this frame")
        failure.__cause__ = error
        job.fail(failure)
        self._drop(job)

    def _on_stuck(self, seconds: float) -> None:
        self._die(StuckError(f"the network has been at one batch for {seconds:.0f} s"))

    def _die(self, error: Exception) -> None:
        """Give everything up: the device is lost to this process."""
        self._closed = DetectionError("the network's device failed; the server restarts")
        for job in list(self._open):
            self._fail(job, error)
        self.on_fatal(error)

    def _drop(self, job: Job) -> None:
        self._open.discard(job)
        self._turns.drop(job)


def settle(one_thread: bool) -> None:
    """Make a thread one of the network's: alone with its core if asked, and last in line for it."""
    if one_thread:
        torch.set_num_threads(1)
        with suppress(OSError, AttributeError):  # only Linux gives each thread a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _timed(infer: Infer, tiles: Sequence[Tile]) -> tuple[list[Found], float]:
    """What a network found, and how long it took, the wait for a thread left out."""
    start = time.perf_counter()
    return infer(tiles), time.perf_counter() - start


def cuda_is_lost() -> bool:
    """Whether CUDA fails for good: after a sticky error every later call fails too."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the host, had no memory left."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(one in words for one in HOST_MEMORY)


def _requests(batch: Batch) -> dict[str, list[str]]:
    """The ids of the requests that a batch is for; this code works for all of them at once."""
    return {"request_ids": sorted({job.request_id for job, _ in batch if job.request_id})}


def _halves(batch: Batch) -> list[Batch]:
    middle = len(batch) // 2
    return [half for half in (batch[:middle], batch[middle:]) if half]


def _frames(batch: Batch) -> list[Batch]:
    frames: dict[Job, Batch] = {}
    for job, index in batch:
        frames.setdefault(job, []).append((job, index))
    return list(frames.values())
