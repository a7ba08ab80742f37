import asyncio

import pytest

from service import context
from service.context import Journey, note, request_id, stage, travelling
from service.flights import Flights
from service.turns import Job
from service.watch import Stopwatch


def test_outside_of_a_request_nothing_is_noted() -> None:
    note(tiles=1)
    Stopwatch().lap("infer")
    assert (request_id(), context.journey()) == ("", None)


def test_the_id_goes_along_into_tasks_and_threads() -> None:
    async def scenario() -> None:
        with travelling(Journey("night-7")):
            assert await asyncio.gather(asyncio.to_thread(request_id), asyncio.create_task(later())) == ["night-7"] * 2
            job = Job([], list, asyncio.get_running_loop().create_future(), lambda: None)
        assert (request_id(), job.request_id) == ("", "night-7")

    async def later() -> str:
        await asyncio.sleep(0)
        return request_id()

    asyncio.run(scenario())


def test_requests_at_once_do_not_mix() -> None:
    async def scenario() -> None:
        journeys = [Journey(str(number)) for number in range(20)]

        async def travel(journey: Journey) -> None:
            with travelling(journey):
                await asyncio.sleep(0.001)
                note(tiles=int(request_id()))

        await asyncio.gather(*map(travel, journeys))
        assert [journey.facts for journey in journeys] == [{"tiles": number} for number in range(20)]

    asyncio.run(scenario())


def test_who_waits_for_the_same_work_says_the_same_of_it() -> None:
    async def scenario() -> None:
        flights, gate = Flights[str](), asyncio.Event()

        async def work() -> str:
            watch = Stopwatch()
            await gate.wait()
            watch.lap("infer")
            note(tiles=3)
            return "done"

        async def travel(journey: Journey) -> None:
            with travelling(journey):
                with flights.board("frame", work, lambda: None) as answer:
                    await answer
                note(count=int(journey.request_id))
                Stopwatch().lap("encode")

        journeys = [Journey("1"), Journey("2")]
        tasks = [asyncio.create_task(travel(journey)) for journey in journeys]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        assert [journey.facts for journey in journeys] == [{"count": 1, "tiles": 3}, {"count": 2, "tiles": 3}]
        assert [[lap.stage for lap in journey.laps] for journey in journeys] == [["infer", "encode"]] * 2

    asyncio.run(scenario())


def test_a_stage_that_fails_or_comes_twice_is_timed() -> None:
    journey = Journey("1")
    with travelling(journey):
        with pytest.raises(ValueError), stage("upload"):
            raise ValueError
        watch = Stopwatch()
        watch.lap("tile")
        watch.lap("tile")
    assert [lap.stage for lap in journey.laps] == ["upload", "tile", "tile"]
    assert all(lap.start <= lap.end for lap in journey.laps)
    assert set(journey.stage_milliseconds) == {"upload", "tile"}
