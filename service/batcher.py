"""Tiles of many frames, brought to the network in full batches and in fair order.

All state belongs to the event loop; only `infer` runs in threads. So there are no locks.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from lynceus.detector import Found
from lynceus.errors import DetectionError
from lynceus.tiling import Tile
from service.pace import Pace
from service.refusals import OverloadedError
from service.turns import SHADOW, Batch, Infer, Job, Priority, Turns

logger = logging.getLogger(__name__)


class TileBatcher:
    """A bounded queue of tiles in front of a device; each frame says which network shall look at it.

    Parameters
    ----------
    workers : int
        Threads that run networks.
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

    Attributes
    ----------
    owed_frames : int
        Frames admitted so far that a caller waited for.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        one_thread: bool = True,
        max_batch_tiles: int = 1,
        max_queue_tiles: int = 2048,
        max_window: float = 0.005,
        on_batch: Callable[[int], None] = lambda size: None,
        on_fatal: Callable[[Exception], None] = lambda error: None,
        is_lost: Callable[[], bool] | None = None,
    ) -> None:
        self.workers = workers
        self.max_batch_tiles = max_batch_tiles
        self.max_queue_tiles = max_queue_tiles
        self.on_batch = on_batch
        self.on_fatal = on_fatal
        self.is_lost = is_lost or cuda_is_lost
        self._pace = Pace(max_window)
        self._turns = Turns()
        self.owed_frames = 0
        self._open: set[Job] = set()
        self._arrived = asyncio.Event()
        self._closed: Exception | None = None
        settle = torch.set_num_threads if one_thread else (lambda threads: None)
        self._pool = ThreadPoolExecutor(workers, "network", initializer=settle, initargs=(1,))
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
    def alive(self) -> bool:
        """Whether tiles are still being worked on."""
        return not any(task.done() for task in self._tasks) and self._closed is None

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.workers)]

    async def close(self) -> None:
        """Admit no more, finish what is there, and stop."""
        self._closed = self._closed or OverloadedError("the server is stopping")
        await asyncio.gather(*(job.answer for job in self._open), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown)

    async def submit(
        self,
        tiles: Sequence[Tile],
        infer: Infer,
        priority: Priority = "live",
        started: Callable[[], None] = lambda: None,
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

        Returns
        -------
        list of Found
            One a tile, in order.

        Raises
        ------
        OverloadedError
            If there is no room for them.
        DetectionError
            If the network fails on one of them.
        """
        if priority != SHADOW:
            self.check_room(len(tiles))
            self.owed_frames += 1
        job = Job(tiles, infer, asyncio.get_running_loop().create_future(), started, priority)
        self._turns.add(job)
        self._open.add(job)
        self._arrived.set()
        try:
            return await job.answer
        finally:
            self._drop(job)

    def check_room(self, tiles: int = 1) -> None:
        """Raise OverloadedError if so many tiles cannot be admitted now."""
        if self._closed is not None:
            raise self._closed
        waiting = self.queue_tiles
        excess = waiting + tiles - self.max_queue_tiles
        if waiting and excess > 0:
            delay = min(excess, waiting) * self._pace.tile_seconds / self.workers
            raise OverloadedError(f"{waiting} tiles wait already, there is no room for {tiles} more", delay)

    async def _work(self) -> None:
        while True:
            await self._run(await self._next())

    async def _next(self) -> Batch:
        """Wait for tiles, then a little for company."""
        while True:
            while not (waiting := self._turns.tiles):
                self._arrived.clear()
                await self._arrived.wait()
            if waiting < self.max_batch_tiles:
                await asyncio.sleep(self._pace.window(waiting))
            if batch := self._turns.take(self.max_batch_tiles):  # another worker may have been faster
                self.on_batch(len(batch))
                return batch

    async def _run(self, batch: Batch) -> None:
        """Run a batch; where it fails, run its parts, until those that cannot work have failed alone."""
        for part in await self._attempt(batch):
            await self._run(part)

    async def _attempt(self, batch: Batch) -> list[Batch]:
        """Run a batch and return what is to be tried again."""
        tiles = [job.tiles[index] for job, index in batch]
        start = time.perf_counter()
        try:
            infer = batch[0][0].infer
            found = await asyncio.get_running_loop().run_in_executor(self._pool, infer, tiles)
            for (job, index), one in zip(batch, found, strict=True):
                job.keep(index, one)
            self._pace.learn(time.perf_counter() - start, batch)
            return []
        except Exception as error:  # whatever a frame makes the network raise, the others must not suffer
            logger.warning("the network failed on a batch of %d tiles", len(batch), exc_info=True)
            error.with_traceback(None)  # it holds the batch's tensors, and a retry needs their memory
            if self.is_lost():
                self._die(error)
                return []
            parts = _halves(batch) if isinstance(error, torch.OutOfMemoryError) else _frames(batch)
            if len(parts) > 1:
                return parts
            self._fail(batch[0][0], error)
            return []

    def _fail(self, job: Job, error: Exception) -> None:
        failure = DetectionError("the network failed on this frame")
        failure.__cause__ = error
        job.fail(failure)
        self._drop(job)

    def _die(self, error: Exception) -> None:
        """Give everything up: the device is lost to this process."""
        self._closed = DetectionError("the network's device failed; the server restarts")
        for job in list(self._open):
            self._fail(job, error)
        self.on_fatal(error)

    def _drop(self, job: Job) -> None:
        self._open.discard(job)
        self._turns.drop(job)


def cuda_is_lost() -> bool:
    """Whether CUDA fails for good: after a sticky error every later call fails too."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _halves(batch: Batch) -> list[Batch]:
    middle = len(batch) // 2
    return [half for half in (batch[:middle], batch[middle:]) if half]


def _frames(batch: Batch) -> list[Batch]:
    frames: dict[Job, Batch] = {}
    for job, index in batch:
        frames.setdefault(job, []).append((job, index))
    return list(frames.values())
