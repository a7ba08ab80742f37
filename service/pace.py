"""What the work so far taught: the time a tile takes, what goes before and after it, and whether to expect company."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from statistics import median

from service.turns import SHADOW, Batch, Priority

WINDOW_SHARE = 0.2  # of the time the tiles at hand will take, so that a lone frame hardly notices the wait
BATCHES, FRAMES = 32, 32  # that the averages are over
OUTLIER = 4.0  # times the median: one stall must not turn frames away for the next minute
MEMORY = 30.0  # seconds in which the share of the live frames is forgotten
CROWDED_BATCHES = 256  # that the flow through the house is measured over
LEAST_SHARE = 0.1  # of the network that backfill may count on
LONGEST_GAP = 2.0  # seconds between two batches: a longer one is a stall, and says nothing of the flow


class Pace:
    """The measured speed of the network and of what surrounds it, and how long a batch that is not full should wait.

    How long a batch waits follows from the time of the network alone. Learning the queueing delay as well, as
    BentoML's batcher does, makes a lone frame wait for a burst that is long over. How long a frame waits for those
    ahead of it does not: on a CPU decoding and measuring take the network's cores, so it follows from what really
    came out of the network while frames waited.

    Parameters
    ----------
    max_window : float
        Longest wait, in seconds.
    workers : int
        Batches that run at once.

    Attributes
    ----------
    tile_seconds : float
        A tile's share of a batch's time; 0 until something is known.
    before_seconds, after_seconds : float
        Decoding, and merging and measuring, a tile.
    tiles_per_byte, fewest_per_byte : float
        Of an upload; of the one that lately held the fewest for its length.
    """

    def __init__(self, max_window: float, workers: int = 1) -> None:
        self.max_window = max_window
        self.workers = workers
        self.tile_seconds = self.before_seconds = self.after_seconds = 0.0
        self.tiles_per_byte = self.fewest_per_byte = 0.0
        self._company = 0.0
        self._batches: deque[tuple[float, float]] = deque(maxlen=BATCHES)
        self._before: deque[tuple[float, float]] = deque(maxlen=FRAMES)
        self._after: deque[tuple[float, float]] = deque(maxlen=FRAMES)
        self._sizes: deque[tuple[float, float]] = deque(maxlen=FRAMES)
        self._live_tiles, self._live_at = 0.0, time.monotonic()
        self._flow: deque[tuple[float, int]] = deque(maxlen=CROWDED_BATCHES)
        self._flow_seconds = 0.0
        self._crowded_at: float | None = None  # when the last batch ended, if frames waited then
        self._preparing = 0

    @property
    def device_seconds(self) -> float:
        """How long a tile keeps the network busy: all workers share the queue."""
        return self.tile_seconds / self.workers

    @property
    def queue_seconds(self) -> float:
        """How long a tile keeps those behind it waiting."""
        return max(self.device_seconds, self._flow_seconds)

    @property
    def live_share(self) -> float:
        """Share of what can come out of the network that live frames took lately."""
        faded = self._live_tiles * math.exp((self._live_at - time.monotonic()) / MEMORY)
        return min(faded / MEMORY * self.queue_seconds, 1.0)

    def wait_seconds(self, priority: Priority) -> float:
        """How long a tile keeps those of its priority behind it waiting; backfill has what live frames leave."""
        if priority == "live":
            return self.queue_seconds
        return self.queue_seconds / max(1 - self.live_share, LEAST_SHARE)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While a frame that was received is made ready for the queue."""
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    def learn(self, seconds: float, batch: Batch, frames: int = 0) -> None:
        """Take a finished batch into account, and how many frames wait for the network or are with it.

        Company is expected after company, and soon forgotten.
        """
        jobs = {job for job, _ in batch}
        self._note_flow(len(batch), self._preparing + frames > self.workers)
        self._company = 1.0 if len(jobs) > 1 else self._company / 2
        if any(job.priority == SHADOW for job in jobs):
            return  # another network, which no caller waits for
        self._batches.append((seconds, len(batch)))
        self.tile_seconds = typical_ratio(self._batches)
        self._note_live(sum(job.priority == "live" for job, _ in batch))

    def learn_frame(self, tiles: int, before: float, after: float) -> None:
        """Take a finished frame into account: the seconds before its tiles were queued, and after the last was seen."""
        self._before.append((before, tiles))
        self._after.append((after, tiles))
        self.before_seconds, self.after_seconds = typical_ratio(self._before), typical_ratio(self._after)

    def learn_size(self, tiles: int, upload_bytes: int) -> None:
        """Take into account how many tiles an upload held."""
        self._sizes.append((tiles, upload_bytes))
        self.tiles_per_byte = typical_ratio(self._sizes)
        self.fewest_per_byte = min((tiles / size for tiles, size in self._sizes if size), default=0.0)

    def window(self, tiles: int) -> float:
        """How long so few tiles should wait for more, in seconds."""
        return self._company * min(self.max_window, WINDOW_SHARE * self.tile_seconds * tiles)

    def _note_flow(self, tiles: int, crowded: bool) -> None:
        now = time.monotonic()
        if self._crowded_at is not None and crowded:
            self._flow.append((min(now - self._crowded_at, LONGEST_GAP), tiles))
            seconds, count = map(sum, zip(*self._flow, strict=True))
            self._flow_seconds = seconds / count
        self._crowded_at = now if crowded else None

    def _note_live(self, tiles: int) -> None:
        now = time.monotonic()
        self._live_tiles = self._live_tiles * math.exp((self._live_at - now) / MEMORY) + tiles
        self._live_at = now


def typical_ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """The sum of the first over the sum of the second, where no pair's ratio counts for much more than the median."""
    known = [(first, second) for first, second in pairs if second > 0]
    if not known:
        return 0.0
    most = OUTLIER * median(first / second for first, second in known)
    return sum(min(first, most * second) for first, second in known) / sum(second for _, second in known)
