import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from lynceus.detections import Detections
from lynceus.detector import Found
from lynceus.errors import DetectionError
from lynceus.tiling import Tile
from service.batcher import TileBatcher
from service.refusals import DeviceFullError, OverloadedError
from tests.fakes import blank_tile


class Network:
    """Says of each tile what its first pixel is; runs only while the gate is open."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[float]] = []
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.fault: Callable[[list[float]], None] = lambda values: None

    def __call__(self, tiles: Sequence[Tile]) -> list[Found]:
        values = [float(tile.pixels[0, 0]) for tile in tiles]
        self.batches.append(values)
        assert self.gate.wait(10)
        time.sleep(self.seconds * len(tiles))
        self.fault(values)
        return [found(value) for value in values]

    @property
    def seen(self) -> list[float]:
        return [value for batch in self.batches for value in batch]


def found(value: float) -> Found:
    box = np.array([[0, 0, 2 + value, 1]], np.float32)
    return Found(Detections(box, np.ones(1, np.float32), np.zeros(1, np.int64)))


def frame(value: float, tiles: int, size: int = 8) -> list[Tile]:
    return [blank_tile(value, size) for _ in range(tiles)]


def said(answer: list[Found]) -> list[float]:
    return [float(one.detections.boxes[0, 2]) - 2 for one in answer]


async def _submit(submit: Any, network: Any, tiles: Any, *arguments: Any, **named: Any) -> list[Found]:
    return await submit(tiles, named.pop("infer", network), *arguments, **named)


@asynccontextmanager
async def running(network: Any, **options: Any) -> AsyncIterator[TileBatcher]:
    batcher = TileBatcher(**options)
    batcher.submit = partial(_submit, batcher.submit, network)  # type: ignore[method-assign]
    batcher.start()
    try:
        yield batcher
    finally:
        getattr(network, "gate", threading.Event()).set()
        await batcher.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def busy(batcher: TileBatcher, network: Network) -> asyncio.Task[list[Found]]:
    """Occupy the network with one tile and shut the gate, so that what follows has to queue."""
    network.gate.clear()
    task = asyncio.create_task(batcher.submit(frame(-1, 1)))
    await until(lambda: network.batches)
    return task


def submit(batcher: TileBatcher, value: float, tiles: int, priority: Any = "live") -> asyncio.Task[list[Found]]:
    return asyncio.create_task(batcher.submit(frame(value, tiles), priority))


def test_every_frame_gets_its_own_tiles_in_order() -> None:
    async def scenario() -> None:
        async with running(Network(), max_batch_tiles=5) as batcher:
            frames = [[blank_tile(100 * number + tile) for tile in range(number)] for number in range(1, 12)]
            answers = await asyncio.gather(*(batcher.submit(tiles) for tiles in frames))
        for tiles, answer in zip(frames, answers, strict=True):
            assert said(answer) == [float(tile.pixels[0, 0]) for tile in tiles]

    asyncio.run(scenario())


def test_batches_are_filled_across_frames_and_never_overfilled() -> None:
    async def scenario() -> None:
        network, sizes = Network(), []
        async with running(network, max_batch_tiles=4, on_batch=sizes.append) as batcher:
            first = await busy(batcher, network)
            others = [submit(batcher, value, 3) for value in range(4)]
            await until(lambda: batcher.queue_tiles == 12)
            network.gate.set()
            await asyncio.gather(first, *others)
        assert sizes == [1, 4, 4, 4]

    asyncio.run(scenario())


def test_a_full_batch_is_at_hand_before_the_network_is_done() -> None:
    async def scenario() -> None:
        network, taken = Network(), []
        async with running(network, ahead=1, on_batch=taken.append) as batcher:
            first = await busy(batcher, network)
            others = [submit(batcher, value, 1) for value in range(3)]
            await until(lambda: len(taken) == 2)
            await until(lambda: batcher.queue_tiles == 2)
            assert network.seen == [-1]
            network.gate.set()
            await asyncio.gather(first, *others)
        assert network.seen == [-1, 0, 2, 1]  # every other turn is the newest one's

    asyncio.run(scenario())


def test_a_batch_that_is_not_full_grows_until_the_network_is_done() -> None:
    async def scenario() -> None:
        network, taken = Network(), []
        async with running(network, ahead=1, max_batch_tiles=4, on_batch=taken.append) as batcher:
            first = await busy(batcher, network)
            few = submit(batcher, 1, 3)
            await until(lambda: batcher.queue_tiles == 3)
            assert taken == [1]
            more = submit(batcher, 2, 3)
            await until(lambda: taken == [1, 4])
            assert batcher.queue_tiles == 2
            network.gate.set()
            await asyncio.gather(first, few, more)
        assert taken == [1, 4, 2]

    asyncio.run(scenario())


def test_tiles_of_different_sizes_never_share_a_batch() -> None:
    async def scenario() -> None:
        network = Network()
        async with running(network, max_batch_tiles=8) as batcher:
            first = await busy(batcher, network)
            others = [asyncio.create_task(batcher.submit(frame(size, 3, size))) for size in (8, 16, 8, 16)]
            await until(lambda: batcher.queue_tiles == 12)
            network.gate.set()
            await asyncio.gather(first, *others)
        assert all(len(set(batch)) == 1 for batch in network.batches)
        assert sorted(len(batch) for batch in network.batches) == [1, 6, 6]

    asyncio.run(scenario())


def test_past_the_bound_it_says_when_to_come_back() -> None:
    async def scenario() -> None:
        network = Network(seconds=0.05)
        async with running(network, max_queue_tiles=10) as batcher:
            await batcher.submit(frame(0, 4))  # teaches the pace
            first = await busy(batcher, network)
            second = submit(batcher, 1, 8)
            await until(lambda: batcher.queue_tiles == 8)
            with pytest.raises(OverloadedError) as refused:
                await batcher.submit(frame(2, 6))
            assert refused.value.retry_after == pytest.approx(4 * 0.05, rel=0.6)
            third = submit(batcher, 3, 2)
            network.gate.set()
            await asyncio.gather(first, second, third)

    asyncio.run(scenario())


def test_a_frame_larger_than_the_bound_is_admitted_when_nothing_waits() -> None:
    async def scenario() -> None:
        async with running(Network(), max_queue_tiles=10) as batcher:
            assert len(await batcher.submit(frame(1, 50))) == 50

    asyncio.run(scenario())


def test_frames_take_turns() -> None:
    async def scenario() -> None:
        network = Network()
        async with running(network) as batcher:
            first = await busy(batcher, network)
            tasks = [submit(batcher, value, 30, "backfill") for value in (1, 2, 3)]
            await until(lambda: batcher.queue_tiles == 90)
            network.gate.set()
            await asyncio.gather(first, *tasks)
        assert network.seen[1:13] == [1, 2, 3] * 4

    asyncio.run(scenario())


def test_live_goes_before_backfill() -> None:
    async def scenario() -> None:
        network = Network()
        async with running(network) as batcher:
            first = await busy(batcher, network)
            tasks = [submit(batcher, 1, 5, "backfill"), submit(batcher, 2, 5)]
            await until(lambda: batcher.queue_tiles == 10)
            network.gate.set()
            await asyncio.gather(first, *tasks)
        assert network.seen[1:] == [2] * 5 + [1] * 5

    asyncio.run(scenario())


def test_a_burst_does_not_starve_the_newest_live_frame() -> None:
    async def scenario() -> None:
        network = Network()
        async with running(network) as batcher:
            first = await busy(batcher, network)
            burst = [submit(batcher, value, 20) for value in range(20)]
            await until(lambda: batcher.queue_tiles == 400)
            newest = submit(batcher, 99, 20)
            await until(lambda: batcher.queue_tiles == 420)
            network.gate.set()
            await asyncio.gather(first, *burst, newest)
        last = max(turn for turn, value in enumerate(network.seen) if value == 99)
        assert last <= 42  # twice the tiles of its own, not 420

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["cancelled", "past its deadline"])
def test_a_frame_nobody_waits_for_leaves_the_queue(how: str) -> None:
    async def scenario() -> None:
        network = Network()
        async with running(network) as batcher:
            first = await busy(batcher, network)
            if how == "cancelled":
                task = submit(batcher, 7, 20)
                await until(lambda: batcher.queue_tiles == 20)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await batcher.submit(frame(7, 20))
            assert batcher.queue_tiles == 0
            network.gate.set()
            await first
        assert 7 not in network.seen

    asyncio.run(scenario())


def test_a_poison_frame_fails_alone() -> None:
    def fault(values: list[float]) -> None:
        if 13 in values:
            raise RuntimeError("poison")

    async def scenario() -> None:
        network = Network()
        network.fault = fault
        async with running(network, max_batch_tiles=16) as batcher:
            first = await busy(batcher, network)
            tasks = [submit(batcher, value, 3) for value in (11, 12, 13, 14)]
            await until(lambda: batcher.queue_tiles == 12)
            network.gate.set()
            answers = await asyncio.gather(first, *tasks, return_exceptions=True)
            assert said(await batcher.submit(frame(15, 3))) == [15] * 3
        assert [isinstance(answer, DetectionError) for answer in answers] == [False, False, False, True, False]
        assert Counter(network.seen)[11] == 6  # once with the poison, once without

    asyncio.run(scenario())


def test_out_of_memory_halves_the_batch() -> None:
    def fault(values: list[float]) -> None:
        if len(values) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    async def scenario() -> None:
        network = Network()
        network.fault = fault
        async with running(network, max_batch_tiles=16) as batcher:
            assert said(await batcher.submit(frame(1, 16))) == [1] * 16
        assert sorted(len(batch) for batch in network.batches) == [4, 4, 4, 4, 8, 8, 16]

    asyncio.run(scenario())


def test_after_out_of_memory_batches_are_smaller_and_grow_again() -> None:
    holds = [4]

    def fault(values: list[float]) -> None:
        if len(values) > holds[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    async def scenario() -> None:
        network = Network()
        network.fault = fault
        async with running(network, max_batch_tiles=16) as batcher:
            await batcher.submit(frame(1, 16))
            seen, holds[0] = len(network.batches), 100
            await batcher.submit(frame(2, 60))
        sizes = [len(batch) for batch in network.batches[seen:]]
        assert sizes[0] <= 8
        assert sizes[:-1] == sorted(sizes[:-1])
        assert max(sizes) > 8

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_the_host_may_be_out_of_memory_too(error: Exception) -> None:
    def fault(values: list[float]) -> None:
        raise error

    async def scenario() -> None:
        network = Network()
        network.fault = fault
        async with running(network) as batcher:
            with pytest.raises(DeviceFullError):
                await batcher.submit(frame(1, 1))

    asyncio.run(scenario())


def test_a_tile_that_alone_does_not_fit_fails_its_frame() -> None:
    def fault(values: list[float]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    async def scenario() -> None:
        network = Network()
        network.fault = fault
        async with running(network, max_batch_tiles=2) as batcher:
            with pytest.raises(DeviceFullError):
                await batcher.submit(frame(1, 2))

    asyncio.run(scenario())


def test_a_lost_device_is_reported_once_and_nothing_waits_for_ever() -> None:
    def fault(values: list[float]) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    async def scenario() -> None:
        network, fatal = Network(), []
        network.fault = fault
        async with running(network, on_fatal=fatal.append, is_lost=lambda: True) as batcher:
            first = await busy(batcher, network)
            second = submit(batcher, 1, 5)
            await until(lambda: batcher.queue_tiles == 5)
            network.gate.set()
            answers = await asyncio.gather(first, second, return_exceptions=True)
            assert all(isinstance(answer, DetectionError) for answer in answers)
            assert len(fatal) == 1
            assert not batcher.alive
            with pytest.raises(DetectionError):
                await batcher.submit(frame(2, 1))

    asyncio.run(scenario())


def test_closing_finishes_what_was_admitted() -> None:
    async def scenario() -> None:
        network = Network(seconds=0.01)
        async with running(network) as batcher:
            task = submit(batcher, 1, 10)
            await until(lambda: network.batches)
            closing = asyncio.create_task(batcher.close())
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await batcher.submit(frame(2, 1))
            assert len(await task) == 10
            await closing

    asyncio.run(scenario())


def test_a_lone_frame_after_a_burst_is_as_fast_as_before() -> None:
    async def seconds(batcher: TileBatcher) -> float:
        start = time.perf_counter()
        await batcher.submit(frame(1, 4))
        return time.perf_counter() - start

    async def scenario() -> None:
        network = Network(seconds=0.005)
        async with running(network, max_batch_tiles=16, max_window=1.0) as batcher:
            before = min([await seconds(batcher) for _ in range(3)])
            await asyncio.gather(*(batcher.submit(frame(value, 4)) for value in range(40)))
            first = await seconds(batcher)
            after = min([await seconds(batcher) for _ in range(3)])
        assert first < 1.3 * before + 0.005
        assert after < 1.3 * before

    asyncio.run(scenario())


def test_a_window_gathers_frames_that_come_one_by_one() -> None:
    async def scenario() -> None:
        network, sizes = Network(seconds=0.02), []
        async with running(network, max_batch_tiles=16, max_window=1.0, on_batch=sizes.append) as batcher:
            await asyncio.gather(*(batcher.submit(frame(value, 8)) for value in range(8)))  # company is expected
            first = submit(batcher, 1, 8)
            await asyncio.sleep(0.01)
            second = submit(batcher, 2, 8)
            await asyncio.gather(first, second)
        assert sizes[-1] == 16

    asyncio.run(scenario())


def test_two_workers_run_side_by_side() -> None:
    async def scenario() -> None:
        together = threading.Barrier(2, timeout=5)

        def infer(tiles: Sequence[Tile]) -> list[Found]:
            together.wait()
            return [found(0) for _ in tiles]

        async with running(infer, workers=2) as batcher:
            assert len(await batcher.submit(frame(1, 6))) == 6

    asyncio.run(scenario())


def test_the_age_of_the_oldest_frame_is_known() -> None:
    async def scenario() -> None:
        network = Network()
        async with running(network) as batcher:
            assert batcher.oldest_seconds == 0
            first = await busy(batcher, network)
            second = submit(batcher, 1, 5)
            await asyncio.sleep(0.05)
            assert 0.04 < batcher.oldest_seconds < 1
            network.gate.set()
            await asyncio.gather(first, second)

    asyncio.run(scenario())
