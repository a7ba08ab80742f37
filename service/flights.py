"""Work in progress that several requests may wait for: the same question is answered once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from service.context import Notes, shared_work, wait_for

T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self, task: asyncio.Task[T], notes: Notes) -> None:
        self.task = task
        self.notes = notes
        self.waiters = 0


class Flights(Generic[T]):
    """The work in progress, by what tells one piece from another."""

    def __init__(self) -> None:
        self._open: dict[Hashable, _Flight[T]] = {}

    def __len__(self) -> int:
        """How many pieces are in progress."""
        return len(self._open)

    @contextmanager
    def board(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], release: Callable[[], None]
    ) -> Iterator[asyncio.Future[T]]:
        """Wait for the work of that name, which is begun if it is not in progress.

        When the last one who waits has left, the work is cancelled.

        Parameters
        ----------
        key : hashable
            What the work is about.
        work : callable
            Begins it.
        release : callable
            Lets go of what `work` needs: at once where somebody else's is joined, at its end otherwise.

        Yields
        ------
        Future
            The answer.
        """
        flight = self._open.get(key)
        if flight is None:
            with shared_work() as notes:
                flight = self._open[key] = _Flight(asyncio.create_task(work()), notes)
            flight.task.add_done_callback(lambda task: release())
        else:
            release()
        wait_for(flight.notes)
        flight.waiters += 1
        answer = asyncio.shield(flight.task)
        try:
            yield answer
        finally:
            answer.cancel()
            flight.waiters -= 1
            if not flight.waiters:
                self._end(key, flight)

    def _end(self, key: Hashable, flight: _Flight[T]) -> None:
        """Forget it at once: a newcomer must not board what is being cancelled."""
        if self._open.get(key) is flight:
            del self._open[key]
        flight.task.cancel()
