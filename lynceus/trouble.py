"""What must pass by itself: a service that is away, a disk that is full."""

import logging
from collections.abc import Callable

from lynceus.call import backoff

LONGEST_RETRY_AFTER = 300.0  # seconds; a service that asks for more is asked again all the same

logger = logging.getLogger(__name__)


class Trouble:
    """Something outside that must pass by itself: waited for with backoff, told when it begins and when it ends.

    Parameters
    ----------
    what : str
        Begins the sentence that is logged.
    clock : callable
        Seconds since 1970.
    """

    def __init__(self, what: str, clock: Callable[[], float]) -> None:
        self.what = what
        self.until = 0.0
        self._clock = clock
        self._met = 0
        self._since = 0.0

    def meet(self, why: object, retry_after: float | None = None) -> float:
        """It is there; gives the seconds to wait."""
        now = self._clock()
        if not self._met:
            self._since = now
            logger.warning("%s: %s; waiting for it to pass", self.what, why)
        if now >= self.until:  # frames that fail together count once
            self._met += 1
        self.until = max(self.until, now + backoff(self._met, min(retry_after or 0.0, LONGEST_RETRY_AFTER)))
        return self.until - now

    def pass_(self) -> None:
        """It is not, or no longer, there."""
        if self._met:
            logger.warning("%s: over after %.0f s", self.what, self._clock() - self._since)
        self._met, self.until = 0, 0.0
