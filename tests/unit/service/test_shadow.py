"""The shadow with a real pipeline around a FixedNetwork; only time and load are played."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from lynceus.bundle import Bundle
from lynceus.detector import Detector
from lynceus.frame import Frame
from service import shadow as module
from service.batcher import TileBatcher
from service.frames import Opened, Pipeline
from service.metrics import Metrics
from service.question import Question
from service.served import Served
from service.settings import Settings
from service.shadow import Shadow
from service.versions import CANARY
from service.watch import Stopwatch
from tests.fakes import SMALL_TILES, FixedNetwork, fixed_bundle, star_field


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.02)


STARS = [(40.0, 50.0), (90.0, 30.0), (70.0, 90.0)]
FRAME = Frame(star_field((120, 120), STARS))
SHA256 = "ab" * 32


def version(number: str, network: Any) -> Bundle:
    manifest = fixed_bundle().manifest.model_copy(update={"version": number})
    return Bundle(Detector(network, SMALL_TILES), manifest)


@dataclass
class Half:
    """A network that is blind to the right half of a tile."""

    inner: FixedNetwork = field(default_factory=FixedNetwork)

    def __call__(self, tiles: Any) -> Any:
        tiles = tiles.clone()
        tiles[..., tiles.shape[-1] // 2 :] = 0
        return self.inner(tiles)


@dataclass
class Broken:
    def __call__(self, tiles: Any) -> Any:
        raise RuntimeError("broken")


@dataclass
class House:
    """Everything a shadow needs, and what it did."""

    shadow: Shadow
    pipeline: Pipeline
    metrics: Metrics
    busy: list[bool]

    def count(self, outcome: str) -> float:
        return self.metrics.canary_frames.labels(outcome)._value.get()

    def detections(self, outcome: str) -> float:
        samples = next(iter(self.metrics.canary_detections.collect())).samples
        return sum(s.value for s in samples if s.name.endswith("_total") and s.labels["outcome"] == outcome)


@asynccontextmanager
async def house(network: Any, journal: Path | None = None, **settings: Any) -> AsyncIterator[House]:
    chosen = Settings(canary_journal=journal, **{"canary_budget": 1.0} | settings)
    metrics, busy = Metrics(chosen.latency_buckets), [False]
    batcher = TileBatcher()
    pipeline = Pipeline(batcher, chosen, metrics)
    served = Served(version("2", network), CANARY)
    shadow = Shadow(pipeline, chosen, metrics, canary=lambda: served, busy=lambda: busy[0])
    batcher.start()
    shadow.start()
    try:
        yield House(shadow, pipeline, metrics, busy)
    finally:
        await shadow.close()
        await batcher.close()


async def stable_blocks(pipeline: Pipeline) -> Any:
    stable = Served(version("1", FixedNetwork()))
    opened = Opened([FRAME], [stable.detector.cut(FRAME)])
    return await pipeline.find(stable, opened, Question(), Stopwatch())


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_version_like_stable_matches_every_detection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(FixedNetwork(), tmp_path / "journal") as it:
            it.shadow.offer(SHA256, await stable_blocks(it.pipeline), Question())
            await until(lambda: it.count("compared"))
            assert [it.detections(outcome) for outcome in ("matched", "lost", "gained")] == [len(STARS), 0, 0]
        line = orjson.loads((tmp_path / "journal").read_bytes())
        assert (line["stable"]["version"], line["canary"]["version"]) == ("1", "2")
        assert line["latency_ratio"] > 0

    asyncio.run(scenario())


def test_what_a_half_blind_version_loses_is_counted() -> None:
    async def scenario() -> None:
        async with house(Half()) as it:
            it.shadow.offer(SHA256, await stable_blocks(it.pipeline), Question())
            await until(lambda: it.count("compared"))
            assert it.detections("lost") > 0
            assert it.detections("lost") + it.detections("matched") == len(STARS)

    asyncio.run(scenario())


def test_it_waits_for_a_pause_and_gives_up_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)

    async def scenario() -> None:
        async with house(FixedNetwork()) as it:
            blocks = await stable_blocks(it.pipeline)
            it.busy[0] = True
            it.shadow.offer(SHA256, blocks, Question())
            await asyncio.sleep(0.15)
            assert not it.count("compared")
            await until(lambda: it.count("skipped"))
            it.busy[0] = False
            it.shadow.offer(SHA256, blocks, Question())
            await until(lambda: it.count("compared"))

    asyncio.run(scenario())


def test_it_begins_only_when_no_caller_has_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.2)

    async def scenario() -> None:
        async with house(FixedNetwork()) as it:
            it.shadow.offer(SHA256, await stable_blocks(it.pipeline), Question())
            for _ in range(8):  # callers come and go, with hardly a pause between two
                it.busy[0] = not it.busy[0]
                await asyncio.sleep(0.1)
            assert not it.pipeline.batcher.queue_tiles + it.count("compared")
            await until(lambda: it.count("compared"))

    asyncio.run(scenario())


def test_past_the_budget_frames_are_left_out() -> None:
    async def scenario() -> None:
        async with house(FixedNetwork(), canary_budget=1e-4) as it:
            blocks = await stable_blocks(it.pipeline)
            for _ in range(3):
                it.shadow.offer(SHA256, blocks, Question())
                await asyncio.sleep(0.2)
            await until(lambda: it.count("compared"))
            assert (it.count("compared"), it.count("skipped")) == (1, 2)

    asyncio.run(scenario())


@pytest.mark.parametrize("question", [{"min_score": 0.1}, {"max_detections": 3}, {"measure": False}])
def test_only_questions_that_both_answer_by_their_own_rules_are_compared(question: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with house(FixedNetwork()) as it:
            it.shadow.offer(SHA256, await stable_blocks(it.pipeline), Question(**question))
            await asyncio.sleep(0.1)
            assert not it.count("compared") + it.count("skipped")

    asyncio.run(scenario())


def test_its_share_of_the_frames_is_drawn_apart_from_the_canarys_traffic() -> None:
    async def scenario() -> None:
        async with house(FixedNetwork(), canary_shadow=0.0) as it:
            it.shadow.offer(SHA256, await stable_blocks(it.pipeline), Question())
            await asyncio.sleep(0.1)
            assert not it.count("compared") + it.count("skipped")

    asyncio.run(scenario())


def test_a_canary_that_breaks_is_counted_and_the_next_frame_is_looked_at() -> None:
    async def scenario() -> None:
        async with house(Broken()) as it:
            blocks = await stable_blocks(it.pipeline)
            for number in (1, 2):
                it.shadow.offer(SHA256, blocks, Question())
                await until(lambda number=number: it.count("failed") == number)

    asyncio.run(scenario())


def test_callers_tiles_go_first() -> None:
    """While shadow tiles wait, a caller's frame is through before them."""

    async def scenario() -> None:
        order: list[str] = []

        def slow(name: str) -> Any:
            network = version("1", FixedNetwork()).detector

            def infer(tiles: Any) -> Any:
                order.append(name)
                return network.infer(tiles)

            return infer

        batcher = TileBatcher()
        batcher.start()
        big = Frame(star_field((500, 500), STARS))
        tiles = version("1", FixedNetwork()).detector.cut(big).all_tiles
        shadow = asyncio.create_task(batcher.submit(tiles, slow("shadow"), "shadow"))
        await until(lambda: order)
        assert batcher.queue_tiles == 0
        await batcher.submit(tiles[:4], slow("caller"))
        first = order.index("caller")
        assert order[first : first + 4] == ["caller"] * 4
        assert order.count("shadow") < len(tiles)
        await shadow
        await batcher.close()

    asyncio.run(scenario())


def test_the_ratio_is_of_the_stages_that_depend_on_the_version() -> None:
    async def scenario() -> None:
        async with house(FixedNetwork()) as it:
            [block] = await stable_blocks(it.pipeline)
        times = {"decode": 5.0, "tile": 1.0, "queue": 100.0, "infer": 8.0, "merge": 0.5, "measure": 0.5}
        stable = replace(block, timing_ms=times)
        canary = replace(block, timing_ms=times | {"infer": 18.0, "decode": 0.0, "queue": 0.0})
        assert module.latency_ratio(stable, canary) == pytest.approx(2.0)

    asyncio.run(scenario())
