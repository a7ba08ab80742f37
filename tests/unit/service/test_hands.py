"""Threads by priority."""

import asyncio
import os
import sys
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from service.hands import LAST_IN_LINE, Hands

colour: ContextVar[str] = ContextVar("colour")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="threads share a niceness")
@pytest.mark.parametrize(("priority", "more"), [("live", 0), ("backfill", LAST_IN_LINE), ("shadow", LAST_IN_LINE)])
def test_what_can_wait_is_last_in_line(priority: Any, more: int) -> None:
    hands = Hands(2)
    assert asyncio.run(hands.lend(priority, niceness)) == max(more, niceness())
    hands.close()


def test_the_context_goes_along_and_errors_come_back() -> None:
    async def scenario() -> None:
        hands = Hands(1)
        colour.set("red")
        assert await hands.lend("backfill", colour.get) == "red"
        with pytest.raises(ZeroDivisionError):
            await hands.lend("live", divmod, 1, 0)
        hands.close()

    asyncio.run(scenario())
