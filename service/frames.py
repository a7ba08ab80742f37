"""An upload to frames, and frames to blocks of sources: the pipeline of one request, one stage a line."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from lynceus.catalogue import Block
from lynceus.detections import Detections
from lynceus.detector import Cut, Detector, Found
from lynceus.file_map import FileBytes
from lynceus.frame import Frame, frame_shape, read_frame, read_frames, read_plane
from lynceus.measure import FrameSummary, Sources, measure, summarise, unmeasured
from lynceus.on_trails import OnTrail
from service.batcher import TileBatcher
from service.context import note
from service.metrics import Metrics
from service.question import Question
from service.served import Served
from service.settings import Settings
from service.slots import Slots
from service.turns import SHADOW, Priority
from service.upload import Upload
from service.watch import Stopwatch

ALL = "all"  # HDUs
BEFORE, AFTER = ("decode", "tile"), ("merge", "measure")  # stages around the network


@dataclass(frozen=True, eq=False)
class Kept:
    """The detections that are published, from which score on, and whether there were more than the limit."""

    detections: Detections
    min_score: float
    overflow: bool
    limit: int


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of a frame's detections, and of the frame."""

    sources: Sources
    summary: FrameSummary


@dataclass(frozen=True, eq=False)
class Opened:
    """Frames, and the tiles that one version looks at."""

    frames: Sequence[Frame]
    cuts: Sequence[Cut]

    @property
    def tiles(self) -> int:
        """How many the network must see."""
        return sum(len(cut.all_tiles) for cut in self.cuts)


@dataclass(frozen=True, eq=False)
class Looked:
    """A frame cut for a version, and all that its network found there, at any score, by falling score."""

    cut: Cut
    detections: Detections
    capped: int
    on_trails: Sequence[OnTrail] = ()


class Pipeline:
    """Finds the sources of uploads.

    Cancelling a call stops it between two stages and takes its tiles out of the queue.

    Parameters
    ----------
    batcher : TileBatcher
        In front of the device.
    settings : Settings
        Limits.
    metrics : Metrics
        Told of every stage.
    """

    def __init__(self, batcher: TileBatcher, settings: Settings, metrics: Metrics) -> None:
        self.batcher = batcher
        self.settings = settings
        self.metrics = metrics
        self._decoding = Slots(settings.max_decodes)
        self._measuring = Slots(max(2, settings.cores))
        self._behind = Slots(1 + max(1, settings.cores // 2))

    def tiles_in(self, served: Served, hdu: str | None, begun: bytes) -> int | None:
        """How many tiles a version looks at of a frame, by the first bytes of its file; None where they do not tell."""
        shape = None if _is_all(hdu) else frame_shape(begun, hdu)
        if shape is None or prod(shape) > self.settings.limits.pixels:
            return None
        return served.detector.least_tiles(shape)

    async def open(
        self,
        served: Served,
        upload: Upload,
        hdu: str | None,
        watch: Stopwatch,
        priority: Priority = "live",
        due: float = math.inf,
    ) -> Opened:
        """Read every frame asked for, under the masks that came with it, and make it ready for a version.

        Raises
        ------
        OverloadedError
            If its answer, due in monotonic time, would come too late: now its size is known.
        """
        with self.batcher.pace.preparing():
            async with self._decoding.taken(priority), self._aside(priority):
                frames = await asyncio.to_thread(self._decode, upload, hdu)
                watch.lap("decode")
                tiles = sum(served.detector.least_tiles(frame.shape) for frame in frames)
                self.batcher.check_due(tiles, due, priority)
                opened = await self._cut(served, frames, watch)
            upload.close()  # not before: until then it is what the frame is counted by
        self.batcher.pace.learn_size(opened.tiles, upload.size)
        return opened

    async def reopen(
        self, served: Served, frames: Sequence[Frame], watch: Stopwatch, priority: Priority = SHADOW
    ) -> Opened:
        """Make frames ready for another version."""
        async with self._decoding.taken(priority), self._aside(priority):
            return await self._cut(served, frames, watch)

    async def find(
        self, served: Served, opened: Opened, question: Question, watch: Stopwatch, due: float = math.inf
    ) -> list[Block]:
        """Find the sources in frames that were made ready for this version, until `due` in monotonic time."""
        looked = await self.look(served, opened, question.priority, watch, due)
        blocks = await self.publish(served, opened, looked, question, watch)
        self._count(served.track, watch, blocks, looked)
        return blocks

    async def publish(
        self, served: Served, opened: Opened, looked: Sequence[Looked], question: Question, watch: Stopwatch
    ) -> list[Block]:
        """Measure what is worth it of all that was found."""
        kept = [self._keep(one.detections, served, question) for one in looked]
        async with self._measuring.taken(question.priority), self._aside(question.priority):
            measured = await asyncio.to_thread(self._measure, opened.frames, kept, looked, served, question)
        watch.lap("measure")
        return self._blocks(opened.frames, looked, kept, measured, served, watch)

    async def look(
        self, served: Served, opened: Opened, priority: Priority, watch: Stopwatch, due: float = math.inf
    ) -> list[Looked]:
        """Show the frames to a version's network; what comes after it must be done by `due` too."""
        detector, cuts = served.detector, opened.cuts
        due -= opened.tiles * self.batcher.pace.after_seconds
        found = await self._infer(cuts, detector, priority, watch, due)
        watch.lap("infer")
        async with self._aside(priority):
            joined = await asyncio.to_thread(lambda: list(map(detector.joined, cuts, found)))
        watch.lap("merge")
        return [
            Looked(cut, one.detections, _capped(tiles), one.on_trails)
            for cut, one, tiles in zip(cuts, joined, found, strict=True)
        ]

    @asynccontextmanager
    async def _aside(self, priority: Priority) -> AsyncIterator[None]:
        """Let what is not live use half of the cores around the network: a live frame then finds one free."""
        if priority == "live":
            yield
            return
        async with self._behind.taken(priority):
            yield

    async def _cut(self, served: Served, frames: Sequence[Frame], watch: Stopwatch) -> Opened:
        cuts = await asyncio.to_thread(lambda: [served.detector.cut(frame) for frame in frames])
        watch.lap("tile")
        return Opened(frames, cuts)

    def _decode(self, upload: Upload, hdu: str | None) -> list[Frame]:
        data = upload.map("frame") or b""
        limits, keywords = self.settings.limits, self.settings.keywords
        if _is_all(hdu):
            frames = read_frames(data, limits=limits, keywords=keywords, sha256=upload.sha256)
        else:
            frames = [read_frame(data, hdu, limits=limits, keywords=keywords, sha256=upload.sha256)]
        mask, weight = upload.map("mask"), upload.map("weight")
        return [self._masked(frame, mask, weight) for frame in frames]

    def _masked(self, frame: Frame, mask: FileBytes | None, weight: FileBytes | None) -> Frame:
        """Mask what the caller's mask marks and what his weight map gives no weight; NaN is bad in both."""
        if mask is not None:
            frame = frame.masked(self._plane(mask, frame) != 0)
        if weight is not None:
            frame = frame.masked(~(self._plane(weight, frame) > 0))
        return frame

    def _plane(self, data: FileBytes, frame: Frame) -> NDArray[np.float32]:
        return read_plane(data, frame.shape, limits=self.settings.limits)

    async def _infer(
        self, cuts: Sequence[Cut], detector: Detector, priority: Priority, watch: Stopwatch, due: float
    ) -> list[list[Found]]:
        """Show the network the tiles of all frames at once, so that they are admitted all or none."""
        tiles = [tile for cut in cuts for tile in cut.all_tiles]
        note(tiles=len(tiles))
        begun = partial(watch.lap, "queue")
        found = await self.batcher.submit(tiles, detector.infer, priority, started=begun, due=due)
        ends = accumulate((len(cut.all_tiles) for cut in cuts), initial=0)
        return [found[start:end] for start, end in pairwise(ends)]

    def _keep(self, detections: Detections, served: Served, question: Question) -> Kept:
        """The best of what is above the threshold; detections come by falling score."""
        threshold = served.detector.spec.min_score if question.min_score is None else question.min_score
        most = self.settings.max_detections
        if question.max_detections is not None:
            most = min(most, question.max_detections)
        above = detections[detections.scores >= threshold]
        return Kept(above[:most], threshold, len(above) > most, most)

    def _measure(
        self,
        frames: Sequence[Frame],
        kept: Sequence[Kept],
        looked: Sequence[Looked],
        served: Served,
        question: Question,
    ) -> list[Measured]:
        spec, measured = served.detector.spec.measure, []
        for frame, one, seen in zip(frames, kept, looked, strict=True):
            found, sky = one.detections, seen.cut.sky
            sources = measure(frame, found, sky, spec) if question.measure else unmeasured(frame, found)
            measured.append(Measured(sources, summarise(frame, sources, sky, spec)))
        return measured

    def _count(self, track: str, watch: Stopwatch, blocks: Sequence[Block], looked: Sequence[Looked]) -> None:
        for stage, seconds in watch.seconds.items():
            self.metrics.stage_seconds.labels(stage, track).observe(seconds)
        for block in blocks:
            self.metrics.detections.labels(track).observe(len(block.sources))
        self.metrics.capped.inc(sum(one.capped for one in looked))
        before, after = (sum(watch.seconds.get(stage, 0.0) for stage in stages) for stages in (BEFORE, AFTER))
        self.batcher.pace.learn_frame(sum(len(one.cut.all_tiles) for one in looked), before, after)

    def _blocks(
        self,
        frames: Sequence[Frame],
        looked: Sequence[Looked],
        kept: Sequence[Kept],
        measured: Sequence[Measured],
        served: Served,
        watch: Stopwatch,
    ) -> list[Block]:
        return [
            Block(
                frame=frame,
                sources=result.sources,
                summary=result.summary,
                model=served.info,
                warnings=(*frame.warnings, *warnings_of(seen, one.min_score)),
                timing_ms=watch.milliseconds,
                overflow=one.overflow,
                limit=one.limit,
            )
            for frame, seen, one, result in zip(frames, looked, kept, measured, strict=True)
        ]


def warnings_of(looked: Looked, min_score: float) -> tuple[str, ...]:
    """Say what is not in the list from this score on: pieces of trails, and sources where a tile held too many."""
    trails = tuple(one.warning(min_score) for one in looked.on_trails)
    if not looked.capped:
        return trails
    tiles = len(looked.cut.all_tiles)
    cap = f"{looked.capped} of {tiles} tiles reached a limit of the network; faint sources there may be missing"
    return (*trails, cap)


def _is_all(hdu: str | None) -> bool:
    return hdu is not None and hdu.lower() == ALL


def _capped(found: Sequence[Found]) -> int:
    return sum(one.capped for one in found)
