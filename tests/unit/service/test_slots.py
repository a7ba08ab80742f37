import asyncio
from typing import Any

from service.slots import Slots


def test_live_frames_come_first_and_no_place_is_lost() -> None:
    async def scenario() -> None:
        slots, order = Slots(2), []

        async def work(name: str, priority: Any) -> None:
            async with slots.taken(priority):
                order.append(name)
                await asyncio.sleep(0.01)

        first = [asyncio.create_task(work("first", "live")) for _ in range(2)]
        await asyncio.sleep(0)
        backfill = [asyncio.create_task(work("backfill", "backfill")) for _ in range(2)]
        shadow = asyncio.create_task(work("shadow", "shadow"))
        gone = asyncio.create_task(work("gone", "live"))
        live = [asyncio.create_task(work("live", "live")) for _ in range(2)]
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(*first, *backfill, *live, shadow)
        assert order == ["first", "first", "live", "live", "backfill", "backfill", "shadow"]
        assert slots._free == 2

    asyncio.run(scenario())


def test_one_place_of_several_is_for_live_frames_alone() -> None:
    async def scenario() -> None:
        slots, held = Slots(3), asyncio.Event()

        async def work(priority: Any) -> None:
            async with slots.taken(priority):
                await held.wait()

        backfill = [asyncio.create_task(work("backfill")) for _ in range(5)]
        await asyncio.sleep(0)
        assert slots._free == 1
        live = asyncio.create_task(work("live"))
        await asyncio.sleep(0)
        assert slots._free == 0
        held.set()
        await asyncio.gather(live, *backfill)
        assert slots._free == 3

    asyncio.run(scenario())


def test_who_gives_up_in_the_moment_he_gets_a_place_hands_it_on() -> None:
    async def scenario() -> None:
        slots = Slots(1)

        async def wait() -> None:
            async with slots.taken("live"):
                pass

        async with slots.taken("live"):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(wait(), 1)

    asyncio.run(scenario())
