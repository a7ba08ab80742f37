"""A guard that tells when a run waits for its tiles more than it trains."""

import logging
from time import perf_counter
from typing import Any

from lightning import Callback

logger = logging.getLogger(__name__)
WARM_UP = 5  # batches: the first are slow for other reasons
WINDOW = 50  # batches a verdict is made on
TOO_MUCH = 0.5  # of a step spent waiting


class SpeedGuard(Callback):
    """Measures how long each step waits for its batch, and says so once if that is most of it.

    It must be the last of the callbacks, so that what the others do at the end of a step is not taken for waiting.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.batches = 0
        self.waited = self.worked = 0.0
        self.told = False
        self._ended: float | None = None
        self._began = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """The batch is here."""
        self._began = perf_counter()
        if self._ended is not None and self.batches >= WARM_UP:
            self.waited += self._began - self._ended

    def on_train_batch_end(self, *_: Any) -> None:
        """The step is done; the loss has been read, so a GPU has done it too."""
        self._ended = perf_counter()
        if self.batches >= WARM_UP:
            self.worked += self._ended - self._began
        self.batches += 1
        if self.batches == WARM_UP + WINDOW:
            self.judge()

    @property
    def share(self) -> float:
        """Of the time, spent waiting for tiles."""
        return self.waited / max(self.waited + self.worked, 1e-9)

    def judge(self) -> None:
        """Warn where waiting is most of a step."""
        if self.share <= TOO_MUCH:
            return
        wait, step = (1000 * seconds / WINDOW for seconds in (self.waited, self.waited + self.worked))
        logger.warning(
            "preparing tiles takes %.0f of the %.0f ms of a step (%.0f %%): the network waits; raise `workers` of the "
            "recipe's training (now %d)",
            wait,
            step,
            100 * self.share,
            self.workers,
        )
        self.told = True
