"""Threads for what is done around the network: those of frames that can wait are last in line for the cores."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from service.turns import Priority

LAST_IN_LINE = 10  # niceness: behind the network's threads, for which a live frame may wait

T = TypeVar("T")


class Hands:
    """Two pools of threads, which start when they are needed.

    Parameters
    ----------
    threads : int
        Most of either pool.
    """

    def __init__(self, threads: int) -> None:
        self._quick = ThreadPoolExecutor(threads, "live")
        self._patient = ThreadPoolExecutor(threads, "backfill", initializer=be_nice, initargs=(LAST_IN_LINE,))

    async def lend(self, priority: Priority, work: Callable[..., T], *args: Any) -> T:
        """Do some work in a thread, with the context of the caller, as `asyncio.to_thread` does."""
        pool = self._quick if priority == "live" else self._patient
        return await asyncio.get_running_loop().run_in_executor(pool, partial(copy_context().run, work, *args))

    def close(self) -> None:
        """End the threads, when they are done with what they do."""
        self._quick.shutdown()
        self._patient.shutdown()


def be_nice(niceness: int) -> None:
    """Let the other threads of this machine go first; only Linux gives each thread a niceness of its own."""
    with suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))
