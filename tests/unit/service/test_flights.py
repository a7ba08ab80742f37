import asyncio

from service.flights import Flights


class Work:
    """Something that takes as long as the gate is shut, and counts its beginnings and ends."""

    def __init__(self) -> None:
        self.begun = self.cancelled = self.released = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "done"

    def release(self) -> None:
        self.released += 1


async def wait(flights: Flights[str], key: str, work: Work) -> str:
    with flights.board(key, work, work.release) as answer:
        return await answer


def test_who_asks_the_same_at_once_shares_one_answer() -> None:
    async def scenario() -> None:
        flights, work = Flights[str](), Work()
        tasks = [asyncio.create_task(wait(flights, key, work)) for key in ("a", "a", "b", "a")]
        await asyncio.sleep(0.01)
        assert work.begun == 2
        assert work.released == 2  # those who joined need their own files no more
        work.gate.set()
        assert await asyncio.gather(*tasks) == ["done"] * 4
        assert await wait(flights, "a", work) == "done"
        assert (work.begun, work.released) == (3, 5)

    asyncio.run(scenario())


def test_the_work_ends_when_the_last_one_left_and_can_be_asked_again() -> None:
    async def scenario() -> None:
        flights, work = Flights[str](), Work()
        first, second = (asyncio.create_task(wait(flights, "a", work)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert work.cancelled == 0
        second.cancel()
        third = asyncio.create_task(wait(flights, "a", work))
        await asyncio.sleep(0.01)
        assert (work.begun, work.cancelled) == (2, 1)
        work.gate.set()
        assert await third == "done"
        assert work.released == 3

    asyncio.run(scenario())


def test_who_leaves_before_the_work_began_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        flights, work = Flights[str](), Work()
        with flights.board("a", work, work.release):
            pass
        await asyncio.sleep(0.01)
        assert (work.begun, work.released) == (0, 1)

    asyncio.run(scenario())


def test_an_error_reaches_everybody() -> None:
    async def fail() -> str:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def scenario() -> None:
        flights = Flights[str]()

        async def one() -> str:
            with flights.board("a", fail, lambda: None) as answer:
                return await answer

        answers = await asyncio.gather(one(), one(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ValueError] * 2

    asyncio.run(scenario())
