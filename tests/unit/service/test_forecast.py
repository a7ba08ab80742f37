"""Whether frames can be in time: the laws of the forecast, and what the batcher does with it."""

import asyncio
import threading
import time
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import pace as pace_module
from service.batcher import TileBatcher
from service.forecast import Need, finishes, is_pressed, lateness
from service.pace import LONGEST_GAP, OUTLIER, Pace, typical_ratio
from service.refusals import OverloadedError
from service.turns import Job, Priority, Turns
from tests.fakes import blank_tile

TILE = 0.1  # seconds
needs = st.builds(Need, st.integers(1, 50), st.floats(0, 20))


def in_time(every: list[Need]) -> list[Need]:
    return [need for need, finish in finishes(every, TILE, 0.0) if finish <= need.due]


@given(st.lists(needs, max_size=8), needs)
def test_who_is_admitted_makes_nobody_late_who_was_not(others: list[Need], new: Need) -> None:
    if lateness(new, others, TILE, 0.0) <= 0:
        after = in_time([*others, new])
        assert new in after
        assert all(after.count(need) >= in_time(others).count(need) for need in others)


@given(st.lists(needs, max_size=8), needs)
def test_who_is_refused_would_be_late_or_make_another_late(others: list[Need], new: Need) -> None:
    if lateness(new, others, TILE, 0.0) > 1e-9:
        after = in_time([*others, new])
        assert new not in after or len(after) <= len(in_time(others))


@given(st.lists(needs, max_size=8), needs, st.floats(0, 10))
def test_who_must_be_early_does_not_overtake_those_who_are_due_before_him(
    others: list[Need], new: Need, spare: float
) -> None:
    queue = [need for need in others if need.tiles * TILE <= need.due]
    ahead = sum(need.tiles for need in queue if need.due <= new.due)
    late = lateness(new, others, TILE, 0.0, spare)
    assert late >= (ahead + new.tiles) * TILE + spare - new.due - 1e-9
    assert late >= lateness(new, others, TILE, 0.0)


def test_what_cannot_be_in_time_delays_nobody() -> None:
    assert [need.due for need, _ in finishes([Need(1000, 5), Need(10, 6)], TILE, 0.0)] == [6]
    assert not is_pressed([Need(1000, 5)], TILE, 0.0)
    assert is_pressed([Need(30, 5)], TILE, 0.0)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 40)), min_size=1, max_size=40))
def test_a_typical_ratio_lies_among_the_ratios(pairs: list[tuple[float, float]]) -> None:
    ratios = [first / second for first, second in pairs]
    assert min(ratios) - 1e-9 <= typical_ratio(pairs) <= max(ratios) + 1e-9


def test_one_stall_hardly_counts() -> None:
    assert typical_ratio([(0.01, 1)] * 20 + [(60, 1)]) < 0.01 * (1 + OUTLIER / 10)


class Clock:
    """Monotonic time that goes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(pace_module.time, "monotonic", lambda: self.now)

    def batches(self, pace: Pace, gap: float, count: int, frames: int, priority: Priority = "live") -> None:
        """Let so many batches of two tiles end, which took the network 0.2 s each."""
        taught = Job([blank_tile()] * 2, list, None, lambda: None, priority)  # type: ignore[arg-type]
        for _ in range(count):
            self.now += gap
            pace.learn(0.2, [(taught, 0), (taught, 1)], frames)


def test_those_who_wait_are_told_the_flow_of_the_whole_house(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), Pace(0.0, workers=2)
    clock.batches(pace, gap=9, count=20, frames=1)  # alone: nobody waits, and gaps are idle time
    assert pace.queue_seconds == pytest.approx(pace.device_seconds) == pytest.approx(0.05)
    clock.batches(pace, gap=0.3, count=20, frames=3)
    assert pace.queue_seconds == pytest.approx(0.15)
    clock.batches(pace, gap=9, count=20, frames=0)
    assert pace.queue_seconds == pytest.approx(0.15)  # nothing new was learned of a crowd


@pytest.mark.parametrize("live", [0, 1, 2])
def test_backfill_waits_for_what_live_frames_leave(monkeypatch: pytest.MonkeyPatch, live: int) -> None:
    clock, pace = Clock(monkeypatch), Pace(0.0, workers=2)
    for _ in range(200):  # of three batches, so many are live
        clock.batches(pace, 0.3, live, 5)
        clock.batches(pace, 0.3, 3 - live, 5, "backfill")
    assert pace.queue_seconds == pytest.approx(0.15)
    assert pace.live_share == pytest.approx(live / 3, abs=0.02)
    assert pace.wait_seconds("live") == pace.queue_seconds
    assert pace.wait_seconds("backfill") == pytest.approx(0.15 / (1 - live / 3), rel=0.06)


def test_frames_are_pressed_by_what_those_of_their_priority_wait() -> None:
    async def scenario() -> None:
        for backfill, order in ((0.01, [0, 1]), (0.1, [0, 0])):
            turns, now = Turns(), time.monotonic()
            jobs = [job(10, now + 1.5, now - 1, "backfill"), job(10, now + 1000, now, "backfill")]
            for one in jobs:
                turns.add(one)
            seconds = {"live": 0.01, "backfill": backfill, "shadow": 0.01}
            taken = [jobs.index(turns.take(1, seconds.__getitem__)[0][0]) for _ in range(2)]
            assert taken == order

    asyncio.run(scenario())


def test_frames_that_are_decoded_are_part_of_the_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), Pace(0.0, workers=1)
    with pace.preparing():
        clock.batches(pace, gap=0.3, count=20, frames=1)
    assert pace.queue_seconds == pytest.approx(0.15)
    clock.batches(pace, gap=0.6, count=20, frames=1)
    assert pace.queue_seconds == pytest.approx(0.15)


def test_a_stall_is_not_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), Pace(0.0, workers=1)
    clock.batches(pace, gap=0.4, count=100, frames=5)
    clock.batches(pace, gap=600, count=1, frames=5)
    assert pace.queue_seconds < 0.2 + LONGEST_GAP / 200


def job(tiles: int, due: float, arrived: float = 0.0, priority: Priority = "live") -> Job:
    answer: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
    return Job([blank_tile()] * tiles, list, answer, lambda: None, priority, due, arrived)  # type: ignore[arg-type]


def test_frames_take_turns_until_one_would_be_late() -> None:
    async def scenario() -> None:
        for left, order in ((1000.0, [1, 0]), (1.5, [0, 0])):
            turns, now = Turns(), time.monotonic()
            jobs = [job(10, now + left, now - 1), job(10, now + 1000, now)]
            for one in jobs:
                turns.add(one)
            taken = [jobs.index(turns.take(1, lambda priority: TILE)[0][0]) for _ in range(2)]
            assert taken == order

    asyncio.run(scenario())


def test_the_hopeless_go_last() -> None:
    async def scenario() -> None:
        turns, now = Turns(), time.monotonic()
        jobs = [job(100, now + 0.5), job(8, now + 1), job(8, now + 1000)]
        for one in jobs:
            turns.add(one)
        assert {jobs.index(one) for one, _ in turns.take(8, lambda priority: TILE)} == {1}

    asyncio.run(scenario())


class Gated:
    """A network of a known speed that runs while the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, tiles: object) -> list[object]:
        assert self.gate.wait(10)
        time.sleep(0.02)
        return [None] * len(tiles)  # type: ignore[arg-type]


async def loaded(network: Gated, **options: int) -> TileBatcher:
    """A batcher that knows its network, which stands still now, with ten live tiles in the queue."""
    batcher = TileBatcher(**options)
    batcher.start()
    await batcher.submit([blank_tile()] * 4, network)  # type: ignore[arg-type]
    network.gate.clear()
    submit = partial(batcher.submit, [blank_tile()] * 10, network, due=time.monotonic() + 100)  # type: ignore[arg-type]
    batcher.waiting = [asyncio.create_task(submit(one)) for one in ("live", "backfill")]  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    return batcher


async def end(batcher: TileBatcher, network: Gated) -> None:
    network.gate.set()
    await batcher.close()


def test_a_frame_that_would_be_late_is_refused_and_told_when_to_come_back() -> None:
    async def scenario() -> None:
        network = Gated()
        batcher = await loaded(network)
        now = time.monotonic()
        batcher.check_time(Need(10, now + 60), "live")
        with pytest.raises(OverloadedError, match="too late") as refused:
            batcher.check_time(Need(10, now + 0.2), "live")
        assert 0 < refused.value.retry_after < 10
        tile = batcher.pace.device_seconds
        soon, later = Need(500, now + 600 * tile), Need(2500, now + 2800 * tile)
        batcher.check_time(soon, "live")
        with pytest.raises(OverloadedError):  # it could be in time, but what is due later could not
            batcher.check_time(soon, "live", [("live", later)])
        await end(batcher, network)

    asyncio.run(scenario())


def test_a_queue_of_frames_with_one_deadline_is_no_longer_than_what_may_be_spoken_for() -> None:
    async def scenario() -> None:
        network = Gated()
        batcher = await loaded(network)
        tile, now = batcher.pace.device_seconds, time.monotonic()
        allowed = 1000 * tile  # a deadline that a thousand tiles would fill
        queue: list[tuple[Priority, Need]] = []
        with suppress(OverloadedError):
            for number in range(100):  # each is due a little after the one before it
                due = now + allowed + number * 1e-6
                batcher.check_time(Need(20, due), "live", queue, spare=0.4 * allowed)
                queue.append(("live", Need(20, due)))
        assert 20 < len(queue) <= 30  # 600 tiles at most, with what is in the queue already
        await end(batcher, network)

    asyncio.run(scenario())


def test_backfill_holds_no_live_frame_up_and_live_frames_hold_backfill_up() -> None:
    async def scenario() -> None:
        network = Gated()
        batcher = await loaded(network)
        now = time.monotonic()
        coming = [("backfill", Need(100_000, now + 3000))]
        batcher.check_time(Need(10, now + 60), "live", coming)  # type: ignore[arg-type]
        with pytest.raises(OverloadedError):
            batcher.check_time(Need(10, now + 60), "backfill", [("live", Need(10_000, now + 3000))])
        await end(batcher, network)

    asyncio.run(scenario())


def test_a_frame_that_nothing_is_ahead_of_is_tried() -> None:
    async def scenario() -> None:
        network = Gated()
        batcher = TileBatcher()
        batcher.start()
        await batcher.submit([blank_tile()] * 4, network)  # type: ignore[arg-type]
        batcher.check_time(Need(1_000_000, time.monotonic() + 0.1), "live")
        await end(batcher, network)

    asyncio.run(scenario())


def test_backfill_leaves_half_of_the_queue_to_live_frames() -> None:
    async def scenario() -> None:
        network = Gated()
        batcher = await loaded(network, max_queue_tiles=40)
        with pytest.raises(OverloadedError):
            batcher.check_room(10, "backfill")
        batcher.check_room(20, "live")
        with pytest.raises(OverloadedError):
            batcher.check_room(30, "live")
        await end(batcher, network)

    asyncio.run(scenario())
