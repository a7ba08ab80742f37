import asyncio

from service.watchdog import Watchdog


def test_a_batch_that_never_ends_is_told_once_and_one_that_ends_is_not() -> None:
    async def scenario() -> None:
        told: list[float] = []
        dog = Watchdog(0.1, told.append)
        dog.start()
        for _ in range(3):
            with dog.over(2):
                await asyncio.sleep(0.05)
        assert (dog.seconds, dog.tiles, told) == (0, 0, [])
        with dog.over(2), dog.over(3):
            await asyncio.sleep(0.4)
            assert dog.tiles == 5
        [age] = told
        assert 0.1 < age < 0.4
        await dog.close()

    asyncio.run(scenario())
