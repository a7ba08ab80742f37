"""An upload to blocks of sources: the pipeline of one request, one stage a line."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from lynceus.catalogue import Block
from lynceus.detections import Detections
from lynceus.detector import Cut, Found
from lynceus.frame import Frame, read_frame, read_frames, read_plane
from lynceus.measure import FrameSummary, Sources, measure, summarise, unmeasured
from service.batcher import TileBatcher
from service.metrics import Metrics
from service.question import Question
from service.served import Served
from service.settings import Settings
from service.upload import Upload
from service.watch import Stopwatch

ALL = "all"  # HDUs


@dataclass(frozen=True, eq=False)
class Kept:
    """The detections that are published, and whether there were more than the limit."""

    detections: Detections
    overflow: bool
    limit: int


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of a frame's detections, and of the frame."""

    sources: Sources
    summary: FrameSummary


class Pipeline:
    """Finds the sources of uploads with one version.

    Cancelling `find` stops it between two stages and takes its tiles out of the queue.

    Parameters
    ----------
    served : Served
        The version.
    batcher : TileBatcher
        In front of its network.
    settings : Settings
        Limits.
    metrics : Metrics
        Told of every stage.
    """

    def __init__(self, served: Served, batcher: TileBatcher, settings: Settings, metrics: Metrics) -> None:
        self.served = served
        self.detector = served.bundle.detector
        self.batcher = batcher
        self.settings = settings
        self.metrics = metrics
        self._decoding = asyncio.Semaphore(settings.max_decodes)

    async def find(self, upload: Upload, question: Question) -> list[Block]:
        """Find the sources in every frame asked for; the upload's files are gone once they are read."""
        watch = Stopwatch()
        async with self._decoding:
            frames = await asyncio.to_thread(self._decode, upload, question)
            upload.close()
            watch.lap("decode")
            cuts = await asyncio.to_thread(self._cut, frames)
            watch.lap("tile")
        found = await self._look(cuts, question, watch)
        watch.lap("infer")
        kept = await asyncio.to_thread(self._merge, cuts, found, question)
        watch.lap("merge")
        measured = await asyncio.to_thread(self._measure, frames, kept, cuts, question)
        watch.lap("measure")
        self._count(watch, kept, found)
        return self._blocks(frames, found, kept, measured, watch)

    def _decode(self, upload: Upload, question: Question) -> list[Frame]:
        data = upload.read("frame") or b""
        limits, keywords = self.settings.limits, self.settings.keywords
        if question.hdu is not None and question.hdu.lower() == ALL:
            frames = read_frames(data, limits=limits, keywords=keywords)
        else:
            frames = [read_frame(data, question.hdu, limits=limits, keywords=keywords)]
        mask, weight = upload.read("mask"), upload.read("weight")
        return [self._masked(frame, mask, weight) for frame in frames]

    def _masked(self, frame: Frame, mask: bytes | None, weight: bytes | None) -> Frame:
        """Mask what the caller's mask marks and what his weight map gives no weight; NaN is bad in both."""
        if mask is not None:
            frame = frame.masked(self._plane(mask, frame) != 0)
        if weight is not None:
            frame = frame.masked(~(self._plane(weight, frame) > 0))
        return frame

    def _plane(self, data: bytes, frame: Frame) -> NDArray[np.float32]:
        return read_plane(data, frame.shape, limits=self.settings.limits)

    def _cut(self, frames: Sequence[Frame]) -> list[Cut]:
        return [self.detector.cut(frame) for frame in frames]

    async def _look(self, cuts: Sequence[Cut], question: Question, watch: Stopwatch) -> list[list[Found]]:
        """Show the network the tiles of all frames at once, so that they are admitted all or none."""
        tiles = [tile for cut in cuts for tile in cut.all_tiles]
        found = await self.batcher.submit(tiles, question.priority, started=partial(watch.lap, "queue"))
        ends = accumulate((len(cut.all_tiles) for cut in cuts), initial=0)
        return [found[start:end] for start, end in pairwise(ends)]

    def _merge(self, cuts: Sequence[Cut], found: Sequence[list[Found]], question: Question) -> list[Kept]:
        return [self._keep(self.detector.join(cut, one), question) for cut, one in zip(cuts, found, strict=True)]

    def _keep(self, detections: Detections, question: Question) -> Kept:
        """The best of what is above the threshold; detections come by falling score."""
        threshold = self.detector.spec.min_score if question.min_score is None else question.min_score
        most = self.settings.max_detections
        if question.max_detections is not None:
            most = min(most, question.max_detections)
        above = detections[detections.scores >= threshold]
        return Kept(above[:most], len(above) > most, most)

    def _measure(
        self, frames: Sequence[Frame], kept: Sequence[Kept], cuts: Sequence[Cut], question: Question
    ) -> list[Measured]:
        spec, measured = self.detector.spec.measure, []
        for frame, one, cut in zip(frames, kept, cuts, strict=True):
            found = one.detections
            sources = measure(frame, found, cut.sky, spec) if question.measure else unmeasured(frame, found)
            measured.append(Measured(sources, summarise(frame, sources, cut.sky, spec)))
        return measured

    def _count(self, watch: Stopwatch, kept: Sequence[Kept], found: Sequence[list[Found]]) -> None:
        track = self.served.track
        for stage, seconds in watch.seconds.items():
            self.metrics.stage_seconds.labels(stage, track).observe(seconds)
        for one in kept:
            self.metrics.detections.labels(track).observe(len(one.detections))
        self.metrics.capped.inc(sum(_capped(one) for one in found))

    def _blocks(
        self,
        frames: Sequence[Frame],
        found: Sequence[list[Found]],
        kept: Sequence[Kept],
        measured: Sequence[Measured],
        watch: Stopwatch,
    ) -> list[Block]:
        return [
            Block(
                frame=frame,
                sources=result.sources,
                summary=result.summary,
                model=self.served.info,
                warnings=(*frame.warnings, *_cap_warning(looked)),
                timing_ms=watch.milliseconds,
                overflow=one.overflow,
                limit=one.limit,
            )
            for frame, looked, one, result in zip(frames, found, kept, measured, strict=True)
        ]


def _capped(found: Sequence[Found]) -> int:
    return sum(one.capped for one in found)


def _cap_warning(found: Sequence[Found]) -> tuple[str, ...]:
    """Say where the list is not complete."""
    capped = _capped(found)
    if not capped:
        return ()
    return (f"{capped} of {len(found)} tiles reached a limit of the network; faint sources there may be missing",)
