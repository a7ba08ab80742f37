"""What the batches so far taught: the time a tile takes, and whether to expect company."""

from service.turns import Batch

WINDOW_SHARE = 0.2  # of the time the tiles at hand will take, so that a lone frame hardly notices the wait
SMOOTHING = 0.2  # weight of the newest batch


class Pace:
    """The measured speed of the network, and how long a batch that is not full should wait.

    The time is that of the network alone. Learning the queueing delay as well, as BentoML's
    batcher does, makes a lone frame wait for a burst that is long over.

    Parameters
    ----------
    max_window : float
        Longest wait, in seconds.
    """

    def __init__(self, max_window: float) -> None:
        self.max_window = max_window
        self.tile_seconds = 0.0
        self._company = 0.0

    def learn(self, seconds: float, batch: Batch) -> None:
        """Take a finished batch into account; company is expected after company, and soon forgotten."""
        latest = seconds / len(batch)
        self.tile_seconds += (SMOOTHING if self.tile_seconds else 1.0) * (latest - self.tile_seconds)
        shared = len({job for job, _ in batch}) > 1
        self._company = 1.0 if shared else self._company / 2

    def window(self, tiles: int) -> float:
        """How long so few tiles should wait for more, in seconds."""
        return self._company * min(self.max_window, WINDOW_SHARE * self.tile_seconds * tiles)
