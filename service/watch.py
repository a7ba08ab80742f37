"""Small things about time: laps, deadlines, and clients that hang up."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from service.context import Lap, notes
from service.refusals import ClientGoneError, DeadlineError

T = TypeVar("T")


class Stopwatch:
    """Time by stage: every lap is the time since the one before, and noted of the request it is for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._notes = notes()  # of now: a lap may end in code that works for many
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._notes.laps.append(Lap(stage, self._last, now))
        self._last = now

    @property
    def milliseconds(self) -> dict[str, float]:
        """By stage, to a hundredth."""
        return {stage: round(seconds * 1000, 2) for stage, seconds in self.seconds.items()}


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[float]:
    """Cancel what runs within after so many seconds, which is a DeadlineError; gives the end in monotonic time."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            yield time.monotonic() + seconds
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineError(f"there was no answer within {seconds:g} s") from None


async def unless_gone(request: Request, answer: asyncio.Future[T]) -> T:
    """Wait for an answer for as long as the client does.

    Raises
    ------
    ClientGoneError
        As soon as the client hangs up.
    """
    gone: asyncio.Future[None] = asyncio.ensure_future(_disconnected(request))
    both: list[asyncio.Future[Any]] = [answer, gone]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGoneError("the client hung up")
        return answer.result()
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
