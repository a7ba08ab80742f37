"""The canary in stable's shadow: it looks at frames that stable has answered, and nobody waits for it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lynceus.catalogue import Block
from lynceus.pairing import Pairing, listed, pair_lists
from service.frames import Pipeline
from service.journal import Journal
from service.lineup import draw
from service.metrics import Metrics
from service.question import Question
from service.served import Served
from service.settings import Settings
from service.turns import SHADOW
from service.versions import CANARY
from service.watch import Stopwatch

LOOK = 0.02  # seconds between two looks whether callers wait
QUIET = 0.25  # seconds without a caller before a stage begins
PATIENCE = 60.0  # seconds that a frame may wait for a pause
WORK = ("tile", "infer", "merge", "measure")  # stages that depend on the version

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Offer:
    """A frame that stable has answered."""

    sha256: str
    blocks: Sequence[Block]
    question: Question


class Shadow:
    """Runs the canary on frames that are answered already, and compares.

    It slows stable by no more than the tile or stage it is at when a frame arrives: its tiles come after everybody
    else's, it begins each stage only when no caller has waited for a while, it works on one frame at a time and for a
    bounded share of the time. A frame that finds it at work is left out, and counted.

    Parameters
    ----------
    pipeline : Pipeline
        Stable's.
    settings : Settings
        Share of the frames, budget and journal.
    metrics : Metrics
        Told of every comparison.
    canary : callable
        Gives the canary of the moment, or None.
    busy : callable
        Whether a caller waits for anything.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        metrics: Metrics,
        canary: Callable[[], Served | None],
        busy: Callable[[], bool],
    ) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.metrics = metrics
        self._canary = canary
        self._busy = busy
        self._journal = Journal(settings.canary_journal, settings.canary_journal_bytes)
        self._waiting: asyncio.Queue[Offer] = asyncio.Queue(maxsize=1)
        self._rest_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Drop what is not done."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def offer(self, sha256: str, blocks: Sequence[Block], question: Question) -> None:
        """Look at a frame later, if it is one of those that are drawn and there is time for it."""
        if self._canary() is None or not is_comparable(question) or draw(sha256[::-1]) >= self.settings.canary_shadow:
            return
        if self._waiting.full() or time.monotonic() < self._rest_until:
            self._count("skipped")
            return
        self._waiting.put_nowait(Offer(sha256, blocks, question))

    async def _work(self) -> None:
        while True:
            await self._take(await self._waiting.get())  # and let go of its frames before the next one

    async def _take(self, offer: Offer) -> None:
        canary = self._canary()
        if canary is None:
            return
        watch = Stopwatch()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._compare(canary, offer, watch)
            self._count("compared")
        except TimeoutError:
            self._count("skipped")
        except Exception:
            logger.exception("the canary %s failed on frame %s", canary.ref, offer.sha256[:12])
            self._count("failed")
        self._rest(sum(seconds for stage, seconds in watch.seconds.items() if stage in WORK))

    async def _compare(self, canary: Served, offer: Offer, watch: Stopwatch) -> None:
        pipeline = self.pipeline
        await self._pause(watch)
        opened = await pipeline.reopen(canary, [block.frame for block in offer.blocks], watch)
        await self._pause(watch)
        seen = pipeline.batcher.owed_frames
        looked = await pipeline.look(canary, opened, SHADOW, watch)
        alone = pipeline.batcher.owed_frames == seen
        await self._pause(watch)
        blocks = await pipeline.publish(canary, opened, looked, offer.question, watch)
        ratio = latency_ratio(offer.blocks[0], blocks[0]) if alone else None
        for stable, block in zip(offer.blocks, blocks, strict=True):
            await asyncio.to_thread(self._tell, stable, block, ratio)

    async def _pause(self, watch: Stopwatch) -> None:
        """Wait until no caller has waited for a while: one who just got his answer often has the next frame ready."""
        quiet = time.monotonic()
        while time.monotonic() - quiet < QUIET:
            await asyncio.sleep(LOOK)
            if self._busy():
                quiet = time.monotonic()
        watch.lap("pause")

    def _rest(self, worked: float) -> None:
        """Leave out the frames of so long a time that the work is no more than the budget's share of it."""
        self._rest_until = time.monotonic() + worked * (1 / self.settings.canary_budget - 1)

    def _tell(self, stable: Block, canary: Block, ratio: float | None) -> None:
        """Compare what both found, for the metrics and the journal."""
        pairing = pair_blocks(stable, canary)
        self._observe(pairing, ratio)
        self._journal.write(entry(stable, canary, pairing, ratio))

    def _observe(self, pairing: Pairing, ratio: float | None) -> None:
        for outcome, by_snr in pairing.counts.items():
            for snr, count in by_snr.items():
                self.metrics.canary_detections.labels(outcome, snr).inc(count)
        shifts = self.metrics.canary_shifts
        for name, values in pairing.absolute_shifts.items():
            for value in values.tolist():
                shifts[name].observe(value)
        if ratio is not None:
            shifts["latency_ratio"].observe(ratio)

    def _count(self, outcome: str) -> None:
        self.metrics.canary_frames.labels(outcome).inc()


def is_comparable(question: Question) -> bool:
    """Whether both versions answer it by their own rules: no threshold of the caller's, and measured."""
    return question.min_score is None and question.max_detections is None and question.measure


def pair_blocks(stable: Block, canary: Block) -> Pairing:
    """Compare what two versions found in one frame."""
    return pair_lists(listed(stable.sources), listed(canary.sources))


def latency_ratio(stable: Block, canary: Block) -> float | None:
    """Time of the canary over that of stable, in the stages that depend on the version."""
    times = [sum(block.timing_ms.get(stage, 0.0) for stage in WORK) for block in (stable, canary)]
    return times[1] / times[0] if times[0] > 0 else None


def entry(stable: Block, canary: Block, pairing: Pairing, ratio: float | None) -> dict[str, Any]:
    """A line of the journal."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "frame": {"sha256": stable.frame.sha256, "hdu": stable.frame.hdu},
        "stable": named(stable),
        CANARY: named(canary),
        "latency_ratio": ratio,
        **pairing.summary(),
    }


def named(block: Block) -> dict[str, str]:
    """The version that made a block."""
    return {"name": block.model.name, "version": block.model.version, "sha256": block.model.sha256}
