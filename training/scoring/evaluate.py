"""A detector against labelled frames: every figure pooled over them, its threshold, its rivals side by side."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lynceus.detections import Detections, Floats
from lynceus.detector import Detector
from lynceus.network import Network
from training.scoring.pooling import Evidence, evidence_of, fainter_ignored, match_by_centre, pool
from training.scoring.report import OURS, Report
from training.scoring.worst import MOST, Worst
from training.tiling.exposures import LabelledExposure

THRESHOLDS = np.round(np.arange(0.05, 1.0, 0.01), 2)
Find = Callable[[LabelledExposure], Detections]
Heard = Callable[[str, int], None]  # key of a frame that is done, how many are


@dataclass(frozen=True)
class Finder:
    """Something that finds sources: what it finds in an exposure at any score, and the score from which it counts."""

    find: Find
    min_score: float = 0.0
    classes: tuple[str, ...] = field(default=())


def detector_finder(detector: Detector, min_score: float | None = None) -> Finder:
    """A detector at a threshold, its own by default."""
    least = detector.spec.min_score if min_score is None else min_score
    return Finder(lambda exposure: detector.detect(exposure.frame), least, classes_of(detector))


def classes_of(detector: Detector) -> tuple[str, ...]:
    """The names that the labels count; none for what stands in for a network."""
    return tuple(detector.network.spec.classes) if isinstance(detector.network, Network) else ()


def score_exposures(
    detector: Detector,
    exposures: Iterable[LabelledExposure],
    min_score: float | None = None,
    *,
    faintest: float | None = None,
    worst: int = MOST,
    heard: Heard | None = None,
) -> Report:
    """Score a detector on labelled frames, one frame in memory at a time.

    Parameters
    ----------
    detector : Detector
        With its specification, so that its threshold and its classes are known.
    exposures : iterable of LabelledExposure
        Read as they are needed.
    min_score : float or None
        Counts, overlaps, offsets and curves are of the detections from this score up; the detector's own by default.
    faintest : float or None
        Sources below this signal to noise are ignored, except in the curve of completeness.
    worst : int
        How many windows with most misses and extras are drawn; 0 for none.
    heard : callable or None
        Is told of every frame that is done.

    Returns
    -------
    Report
        For one frame, the figures of `lynceus.scoring.evaluate`.

    Raises
    ------
    CatalogueError
        If the boxes of a frame lie on one another so much that these cannot be sources.
    """
    finders = {OURS: detector_finder(detector, min_score)}
    return score_finders(finders, exposures, faintest=faintest, worst=worst, heard=heard)[OURS]


def score_finders(
    finders: Mapping[str, Finder],
    exposures: Iterable[LabelledExposure],
    *,
    faintest: float | None = None,
    worst: int = MOST,
    heard: Heard | None = None,
) -> dict[str, Report]:
    """Score several on the same frames, reading each frame once.

    Parameters
    ----------
    finders : mapping of str to Finder
        By name; windows are drawn for the first alone.
    exposures, faintest, worst, heard
        As in `score_exposures`.

    Returns
    -------
    dict of str to Report
        In the order of the finders.
    """
    evidence: dict[str, list[Evidence]] = {name: [] for name in finders}
    drawn = Worst(worst)
    for number, exposure in enumerate(exposures, start=1):
        for place, (name, finder) in enumerate(finders.items()):
            began = time.perf_counter()
            found = finder.find(exposure)
            took = time.perf_counter() - began
            evidence[name].append(_evidence(exposure, found, finder, faintest, took))
            if place == 0:
                kept = found[found.scores >= finder.min_score]
                drawn.look(exposure, kept, fainter_ignored(exposure.truth, faintest))
        if heard:
            heard(exposure.key, number)
    reports = {
        name: pool(evidence[name], min_score=finder.min_score, classes=finder.classes, faintest=faintest)
        for name, finder in finders.items()
    }
    first = next(iter(reports), None)
    return {
        name: report.model_copy(update={"worst": drawn.windows}) if name == first else report
        for name, report in reports.items()
    }


def _evidence(
    exposure: LabelledExposure, found: Detections, finder: Finder, faintest: float | None, seconds: float
) -> Evidence:
    return evidence_of(
        exposure.key,
        found,
        exposure.truth,
        min_score=finder.min_score,
        classes=finder.classes,
        faintest=faintest,
        hidden=exposure.hidden,
        seconds=seconds,
    )


def best_threshold(
    find: Find | Detector, exposures: Iterable[LabelledExposure], *, faintest: float | None = None
) -> tuple[float, float]:
    """The score threshold with the highest F1 by centre, and that F1.

    Parameters
    ----------
    find : callable or Detector
        What it finds in an exposure, at any score.
    exposures : iterable of LabelledExposure
        Read once, one at a time: the surest detection chooses its source first, so one match serves all thresholds.
    faintest : float or None
        Sources below this signal to noise are ignored.

    Returns
    -------
    (float, float)
        The lowest of the best thresholds; an F1 of 0 where nothing was found.
    """
    look: Find = (lambda exposure: find.detect(exposure.frame)) if isinstance(find, Detector) else find
    right: list[Floats] = [np.zeros(0)]
    wrong: list[Floats] = [np.zeros(0)]
    sources = 0
    for exposure in exposures:
        found, ignored = look(exposure), fainter_ignored(exposure.truth, faintest)
        match = match_by_centre(found, exposure.truth, ignored)
        right.append(found.scores[match.right])
        wrong.append(found.scores[match.wrong])
        sources += int((~ignored).sum())
    f1 = f1_at(THRESHOLDS, np.concatenate(right), np.concatenate(wrong), sources)
    best = int(np.argmax(f1))
    return float(THRESHOLDS[best]), float(f1[best])


def f1_at(thresholds: Floats, right: Floats, wrong: Floats, sources: int) -> Floats:
    """F1 at every threshold from the scores of right and of wrong detections; shape of `thresholds`."""
    hits, extra = (len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left") for scores in (right, wrong))
    return np.asarray(2 * hits / np.maximum(hits + extra + sources, 1))
