"""A frame and a catalogue to figures: the way of one `/evaluate`, one stage a line."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import orjson

from lynceus.alignment import check_alignment
from lynceus.catalogue import SCHEMA_VERSION, ModelInfo
from lynceus.columns import facts_of
from lynceus.detections import Detections, Floats
from lynceus.errors import CatalogueError
from lynceus.evaluation import Evaluation, evaluation_page
from lynceus.frame import Frame
from lynceus.measure import FrameSummary, MeasureSpec, Sources, measure, summarise
from lynceus.sky import Sky
from lynceus.truth import Catalogue, Truth, listed_detections, positions_of, read_catalogue, truth_of
from lynceus.unlisted import find_peaks
from service.frames import Pipeline, warnings_of
from service.question import EvaluateQuestion
from service.refusals import BadParameterError
from service.served import Served
from service.upload import Upload
from service.watch import Stopwatch

ANY_SCORE = 0.0  # another tool's list has no threshold of ours
TOLERANCE, LEAST_TOLERANCE = 1.2, 2.0  # of a position that agrees: in FWHM, and at least, in pixels
MISFIT = 0.25  # of the side of a box: figures of boxes that are shifted by more mean nothing


class MisfitError(CatalogueError):
    """The catalogue and the frame do not show the same sky at the same place."""

    code = "catalogue_misfit"


@dataclass(frozen=True, eq=False)
class Claimed:
    """The list that is scored, at any score, and the threshold it is published with."""

    detections: Detections
    min_score: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Lists:
    """What is scored, at any score from `min_score` up and below, and what it is scored against."""

    found: Detections
    sources: Sources
    min_score: float
    truth: Truth
    warnings: tuple[str, ...]

    @property
    def positions(self) -> tuple[Floats, Floats]:
        """Measured `x, y` of the detections found, NaN below the threshold, where none were measured."""
        shown = self.found.scores >= self.min_score
        x, y = np.full((2, len(self.found)), np.nan)
        x[shown], y[shown] = self.sources.x, self.sources.y
        return x, y


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What `/evaluate` answers."""

    frame: Frame
    sky: Sky
    facts: dict[str, Any]
    model: ModelInfo
    scored: str
    lists: Lists
    evaluation: Evaluation
    timing_ms: dict[str, float]

    def json(self, warnings: Sequence[str]) -> bytes:
        """The figures; `warnings` are about the request."""
        model = {name: value for name, value in asdict(self.model).items() if name != "classes"}
        return orjson.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "frame": self.facts,
                "model": model,
                "scored": self.scored,
                "evaluation": self.evaluation.model_dump(),
                "warnings": [*self.lists.warnings, *warnings],
                "timing_ms": self.timing_ms,
            }
        )

    def page(self, warnings: Sequence[str]) -> bytes:
        """The figures as a page, with the overlay and the curves."""
        return evaluation_page(
            self.evaluation,
            self.lists.found,
            self.lists.truth,
            self.frame,
            self.sky,
            model=self.model if self.scored == "model" else None,
            facts=self.facts,
            warnings=[*self.lists.warnings, *warnings],
        ).encode()


class Evaluator:
    """Scores a version, or another tool's list, against catalogues.

    Parameters
    ----------
    pipeline : Pipeline
        Finds what is scored.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    async def evaluate(
        self, served: Served, upload: Upload, question: EvaluateQuestion, due: float = math.inf
    ) -> Evaluated:
        """Score one frame; the upload's files are gone once they are read."""
        watch = Stopwatch()
        catalogue, detections = upload.read("catalogue") or b"", upload.read("detections")
        until = due if detections is None else math.inf  # somebody else's list does not wait for the network
        opened = await self.pipeline.open(served, upload, _one_hdu(question.hdu), watch, question.priority, until)
        [frame], [cut] = opened.frames, opened.cuts
        spec = served.detector.spec
        truth = await asyncio.to_thread(lay_over, catalogue, frame, cut.sky, spec.measure, question)
        watch.lap("truth")
        if detections is None:
            [looked] = await self.pipeline.look(served, opened, question.priority, watch, due)
            claimed = Claimed(looked.detections, spec.min_score, warnings_of(looked, spec.min_score))
        else:
            claimed = await asyncio.to_thread(claimed_in, detections, frame, spec.measure, question)
        lists, summary = await asyncio.to_thread(measured, claimed, truth, frame, cut.sky, spec.measure, question)
        watch.lap("measure")
        evaluation = await asyncio.to_thread(scored, lists)
        watch.lap("score")
        return Evaluated(
            frame=frame,
            sky=cut.sky,
            facts=facts_of(frame, summary),
            model=served.info,
            scored="model" if detections is None else "detections",
            lists=lists,
            evaluation=evaluation,
            timing_ms=watch.milliseconds,
        )


def lay_over(catalogue: bytes, frame: Frame, sky: Sky, spec: MeasureSpec, question: EvaluateQuestion) -> Truth:
    """The truth of a frame by a catalogue, with what must be known of the two in its warnings.

    Raises
    ------
    CatalogueError
        If it cannot be read, or does not fit the frame.
    """
    listed = read_catalogue(catalogue)
    truth = truth_of(
        listed,
        frame,
        sky,
        spec,
        rule=question.box_rule,
        ignore_flags=question.ignore_flags,
        unlisted=question.unlisted,
    )
    return replace(truth, warnings=(*truth.warnings, *check_fit(listed, truth, frame, sky, spec)))


def claimed_in(data: bytes, frame: Frame, spec: MeasureSpec, question: EvaluateQuestion) -> Claimed:
    """Another tool's list; raises CatalogueError if it cannot be read."""
    return Claimed(listed_detections(read_catalogue(data), frame, spec, rule=question.box_rule), ANY_SCORE)


def measured(
    claimed: Claimed, truth: Truth, frame: Frame, sky: Sky, spec: MeasureSpec, question: EvaluateQuestion
) -> tuple[Lists, FrameSummary]:
    """Both lists, with what is measured of the detections over the threshold, and of the frame."""
    least = claimed.min_score if question.min_score is None else question.min_score
    sources = measure(frame, claimed.detections[claimed.detections.scores >= least], sky, spec)
    warnings = (*frame.warnings, *truth.warnings, *claimed.warnings)
    return Lists(claimed.detections, sources, least, truth, warnings), summarise(frame, sources, sky, spec)


def scored(lists: Lists) -> Evaluation:
    """The figures of a list against its truth."""
    from lynceus.scoring import evaluate  # torchmetrics takes seconds to import, and most servers never score

    return evaluate(lists.found, lists.truth, min_score=lists.min_score, positions=lists.positions)


def check_fit(listed: Catalogue, truth: Truth, frame: Frame, sky: Sky, spec: MeasureSpec) -> tuple[str, ...]:
    """Compare the catalogue's positions with the peaks of the frame, which no version has a part in.

    Returns
    -------
    tuple of str
        A warning, where figures still mean something: a shift that boxes hardly notice.

    Raises
    ------
    MisfitError
        If the catalogue does not fit the frame; the text has the shift that was measured.
    """
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2])[: truth.listed]
    side = float(np.median(sides)) if len(sides) else spec.min_box
    peaks, _ = find_peaks(frame, sky)
    peaks = peaks[np.argsort(-peaks.height, kind="stable")]
    tolerance = max(TOLERANCE * side / spec.box_scale, LEAST_TOLERANCE)
    fit = check_alignment(*positions_of(listed, frame), peaks.x, peaks.y, frame.shape, tolerance)
    far = fit.verdict == "shifted" and np.hypot(fit.dx, fit.dy) > MISFIT * side
    if far or fit.verdict in ("no_overlap", "other_field"):
        raise MisfitError(fit.text)
    return (fit.text,) if fit.verdict == "shifted" else ()


def _one_hdu(hdu: str | None) -> str | None:
    if hdu is not None and hdu.lower() == "all":
        raise BadParameterError("parameter 'hdu': a catalogue is of one frame, so name one HDU")
    return hdu
