"""From what was found in each frame to one report: the evidence of a frame is small, so frames can be streamed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.detections import Detections, Floats
from lynceus.figures import Bin, Counts
from lynceus.matching import Match, match_boxes, match_centres, overlaps
from lynceus.scoring import (
    BOX_SCALE,
    CAPS,
    FAINTEST_MAGNITUDE,
    IOU,
    IOU_THRESHOLDS,
    SCORE_EDGES,
    SNR_EDGES,
    USUAL_CAP,
    counts_of,
)
from lynceus.truth import Truth
from training.scoring.confusion import as_classes, class_figures, confusion, confusion_counts, kinds_of
from training.scoring.precision import Bools, Ranked, average_precision, average_recall, rank
from training.scoring.report import FrameFigures, Report

CROWDING_EDGES = np.array([0.0, 1.0, 2.0, 3.0, 5.0, 10.0, np.inf])  # FWHM to the nearest neighbour
OFFSETS = ("median_centroid_offset", "median_dx", "median_dy")
BrightnessKind = Literal["snr", "magnitude", "none"]
Shares = tuple[Floats, Bools]  # what a curve is drawn along, and which of it are hits


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that a report needs of one frame; arrays are over sources or detections that count.

    Attributes
    ----------
    figures : FrameFigures
        Counts by box, of detections from `min_score` up.
    counts, by_centre : Counts
        The same, and by centre.
    found : int
        Detections at any score.
    ranked : Ranked
        For average precision and recall.
    by_snr, by_class : mapping of str to Ranked
        The same for parts of the sources.
    by_source, by_detection : ndarray
        Best overlap of each.
    offsets : ndarray, shape (R, 2)
        Of the matched detections, in pixels.
    brightness, brightness_by_centre, crowding, scores, crowded : (ndarray, ndarray)
        Along each curve, and the hits: by box, but for the second and those by crowding.
    brightness_kind : {"snr", "magnitude", "none"}
        What `brightness` is.
    confusion : ndarray, shape (C + 1, C + 1), or None
        See `Confusion`.
    """

    figures: FrameFigures
    counts: Counts
    by_centre: Counts
    found: int
    ranked: Ranked
    by_snr: dict[str, Ranked]
    by_class: dict[str, Ranked]
    by_source: Floats
    by_detection: Floats
    offsets: Floats
    brightness: Shares
    brightness_by_centre: Shares
    brightness_kind: BrightnessKind
    crowding: Shares
    scores: Shares
    crowded: Shares
    confusion: NDArray[np.int64] | None


def fainter_ignored(truth: Truth, faintest: float | None) -> Bools:
    """Which sources are ignored if those below a signal to noise are, too; shape (M,)."""
    if faintest is None or truth.brightness_kind != "snr":
        return truth.ignored
    with np.errstate(invalid="ignore"):
        return truth.ignored | (truth.brightness < faintest)


def evidence_of(
    key: str,
    found: Detections,
    truth: Truth,
    *,
    min_score: float,
    classes: tuple[str, ...] = (),
    faintest: float | None = None,
    hidden: Bools | None = None,
    seconds: float = 0.0,
) -> Evidence:
    """Score what was found in one frame.

    Parameters
    ----------
    key : str
        Of the frame.
    found : Detections
        At any score.
    truth : Truth
        What is there.
    min_score : float
        Counts, overlaps, offsets and curves are of the detections from this score up.
    classes : tuple of str
        That the labels count; with more than one, sources of other kinds are ignored.
    faintest : float or None
        Sources below this signal to noise are ignored, except in the curve of completeness.
    hidden : ndarray, shape (H, W), bool, or None
        True on trails, where what is extra is counted apart as well.
    seconds : float
        That finding took.
    """
    kinds = kinds_of(truth, classes)
    given = truth.ignored | (kinds < 0) if kinds is not None else truth.ignored
    ignored = fainter_ignored(truth, faintest) | given
    match = match_boxes(found.boxes, found.scores, truth.boxes, ignored, IOU)
    shown = found.scores >= min_score
    kept, hit = found[shown], Match(match.source_of[shown], ignored)
    counts, centre = counts_of(hit), match_by_centre(kept, truth, ignored)
    return Evidence(
        figures=FrameFigures(
            key=key,
            sources=int((~ignored).sum()),
            detections=counts.matched + counts.extra,
            **counts.model_dump(include={"matched", "missed", "extra", "ignored"}),
            extra_hidden=0 if hidden is None else _within(kept[hit.wrong], hidden),
            seconds=seconds,
            warnings=truth.warnings,
        ),
        counts=counts,
        by_centre=counts_of(centre),
        found=len(found),
        ranked=rank(found, truth.boxes, ignored),
        by_snr=_by_snr(found, truth, given),
        by_class=as_classes(found, truth, ignored, kinds, classes),
        **_best_overlaps(kept, truth.boxes[~ignored], ~hit.absorbed),
        offsets=_offsets(kept, truth, hit),
        brightness=_brightness(truth, given, hit.found),
        brightness_by_centre=_brightness(truth, given, centre.found),
        brightness_kind=truth.brightness_kind,
        crowding=_crowding(truth, ignored, centre.found),
        scores=(kept.scores[~hit.absorbed], hit.right[~hit.absorbed]),
        crowded=_crowded(kept, centre),
        confusion=None if kinds is None else confusion_counts(kept.labels, hit, kinds, len(classes)),
    )


def pool(
    frames: Sequence[Evidence], *, min_score: float, classes: tuple[str, ...] = (), faintest: float | None = None
) -> Report:
    """Put the evidence of all frames together.

    Parameters
    ----------
    frames : sequence of Evidence
        Each scored with the same `min_score`, `classes` and `faintest`.

    Returns
    -------
    Report
        For one frame its figures are those of `lynceus.scoring.evaluate`.
    """
    counts, by_centre = _sum(frame.counts for frame in frames), _sum(frame.by_centre for frame in frames)
    kind: BrightnessKind = next((frame.brightness_kind for frame in frames if frame.brightness_kind != "none"), "none")
    told = [frame for frame in frames if frame.brightness_kind == kind]
    bright = _joined([frame.brightness for frame in told])
    by_centre_bright = _joined([frame.brightness_by_centre for frame in told])
    times = [frame.figures.seconds for frame in frames if frame.figures.seconds]
    return Report(
        min_score=min_score,
        detections=counts.matched + counts.extra + counts.ignored,
        sources=counts.matched + counts.missed,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        counts=counts,
        by_centre=by_centre,
        brightness_kind=kind,
        completeness=_completeness(*bright, kind),
        completeness_by_centre=_completeness(*by_centre_bright, kind),
        reliability=_binned(*_joined([frame.scores for frame in frames]), SCORE_EDGES),
        **precision_figures(frames),
        best_iou_per_gt=_mean([frame.by_source for frame in frames]),
        best_iou_per_prediction=_mean([frame.by_detection for frame in frames]),
        **_median_offsets([frame.offsets for frame in frames]),
        frames=len(frames),
        faintest=faintest,
        seconds=float(np.median(times)) if times else None,
        crowding=_binned(*_joined([frame.crowding for frame in frames]), CROWDING_EDGES),
        crowded_reliability=_binned(*_joined([frame.crowded for frame in frames]), CROWDING_EDGES),
        map_50_by_snr=_each([frame.by_snr for frame in frames]),
        by_class=class_figures([(frame.by_class, frame.confusion) for frame in frames], classes),
        confusion=confusion([frame.confusion for frame in frames], classes),
        per_frame=tuple(frame.figures for frame in frames),
    )


def precision_figures(frames: Sequence[Evidence]) -> dict[str, Any]:
    """Average precision at each IoU, average recall at three caps, and the caps."""
    ranked = [frame.ranked for frame in frames]
    by_iou = average_precision(ranked)
    cap = max((frame.found for frame in frames), default=0)
    caps = {name: round(share * max(cap, USUAL_CAP)) for name, share in CAPS.items()}
    at = {} if by_iou is None else dict(zip(IOU_THRESHOLDS, by_iou.tolist(), strict=True))
    return {
        "map": None if by_iou is None else float(by_iou.mean()),
        "map_50": at.get(0.5),
        "map_75": at.get(0.75),
        "mar": {name: average_recall(ranked, most) for name, most in caps.items()},
        "caps": caps,
    }


def match_by_centre(found: Detections, truth: Truth, ignored: Bools) -> Match:
    """Match within one FWHM of the source, as the box rule has it."""
    positions = np.stack(found.centres, axis=1)
    return match_centres(
        positions, found.scores, np.stack(truth.centres, axis=1), sides(truth.boxes) / BOX_SCALE, ignored
    )


def sides(boxes: Floats) -> Floats:
    """Geometric mean of width and height, shape (N,), in pixels."""
    return np.asarray(np.sqrt((boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)))


def _within(found: Detections, hidden: Bools) -> int:
    """How many have their centre on a hidden pixel."""
    x, y = (np.rint(place).astype(int) for place in found.centres)
    height, width = hidden.shape
    return int(hidden[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)].sum())


def _sum(counts: Any) -> Counts:
    """Counts of all frames together."""
    rows = [one.model_dump() for one in counts]
    return Counts(**{name: sum(row[name] for row in rows) for name in Counts.model_fields})


def _by_snr(found: Detections, truth: Truth, ignored: Bools) -> dict[str, Ranked]:
    """The sources of one bin each, all others being ignored."""
    if truth.brightness_kind != "snr":
        return {}
    snr = truth.brightness
    with np.errstate(invalid="ignore"):
        parts = {_name(low, high): (snr >= low) & (snr < high) for low, high in pairwise(SNR_EDGES)}
    return {name: rank(found, truth.boxes, ignored | ~inside, (IOU,)) for name, inside in parts.items()}


def _name(low: float, high: float) -> str:
    return f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}-"


def _each(frames: Sequence[dict[str, Ranked]]) -> dict[str, float | None]:
    """Average precision at IoU 0.5 of every part that the frames have, in their order."""
    names = dict.fromkeys(chain.from_iterable(frames))
    scored = {name: average_precision([frame[name] for frame in frames if name in frame]) for name in names}
    return {name: None if by_iou is None else float(by_iou[0]) for name, by_iou in scored.items()}


def _best_overlaps(kept: Detections, sources: Floats, counted: Bools) -> dict[str, Floats]:
    pairs = overlaps(kept.boxes, sources)
    by_source, by_detection = np.zeros(len(sources)), np.zeros(len(kept))
    np.maximum.at(by_source, pairs.second, pairs.iou)
    np.maximum.at(by_detection, pairs.first, pairs.iou)
    return {"by_source": by_source, "by_detection": by_detection[counted]}


def _offsets(kept: Detections, truth: Truth, match: Match) -> Floats:
    found, there = np.stack(kept.centres, axis=1), np.stack(truth.centres, axis=1)
    return np.asarray(found[match.right] - there[match.source_of[match.right]])


def _median_offsets(offsets: Sequence[Floats]) -> dict[str, float | None]:
    dx, dy = np.concatenate([*offsets, np.zeros((0, 2))]).T
    if not len(dx):
        return dict.fromkeys(OFFSETS)
    values = (np.hypot(dx, dy), dx, dy)
    return {name: float(np.median(some)) for name, some in zip(OFFSETS, values, strict=True)}


def _brightness(truth: Truth, ignored: Bools, hit: Bools) -> Shares:
    """Of the sources whose brightness is known; faint ones are among them, whatever else ignores them."""
    counted = ~ignored & np.isfinite(truth.brightness)
    if truth.brightness_kind == "magnitude":
        counted &= np.abs(truth.brightness) < FAINTEST_MAGNITUDE
    return truth.brightness[counted], hit[counted]


def _completeness(values: Floats, hit: Bools, kind: BrightnessKind) -> tuple[Bin, ...]:
    if kind == "none" or not len(values):
        return ()
    whole = np.arange(np.floor(values.min()), np.floor(values.max()) + 2)
    return _binned(values, hit, SNR_EDGES if kind == "snr" else whole)


def _crowding(truth: Truth, ignored: Bools, hit: Bools) -> Shares:
    """How far the nearest source is, ignored ones too, in FWHM; infinite for a lone source."""
    away = _nearest(np.stack(truth.centres, axis=1)) / (sides(truth.boxes) / BOX_SCALE)
    return away[~ignored], hit[~ignored]


def _crowded(kept: Detections, match: Match) -> Shares:
    """How far the nearest other detection is, in FWHM."""
    away = _nearest(np.stack(kept.centres, axis=1)) / (sides(kept.boxes) / BOX_SCALE)
    return away[~match.absorbed], match.right[~match.absorbed]


def _nearest(positions: Floats) -> Floats:
    """Distance of each position (N, 2) to the nearest other, shape (N,)."""
    if len(positions) < 2:
        return np.full(len(positions), np.inf)
    distance, _ = cKDTree(positions).query(positions, k=2)
    return np.asarray(distance[:, 1])


def _joined(parts: Sequence[Shares]) -> Shares:
    values = np.concatenate([np.zeros(0), *(part[0] for part in parts)])
    return values, np.concatenate([np.zeros(0, bool), *(part[1] for part in parts)])


def _mean(parts: Sequence[Floats]) -> float | None:
    values = np.concatenate([np.zeros(0), *parts])
    return float(values.mean()) if len(values) else None


def _binned(values: Floats, hit: Bools, edges: Floats) -> tuple[Bin, ...]:
    """Counts between edges; the first and the last bin take what lies outside."""
    inside = np.digitize(values, edges[1:-1])
    total, hits = (np.bincount(inside[some], minlength=len(edges) - 1) for some in (slice(None), hit))
    bounds = [round(float(edge), 6) if np.isfinite(edge) else None for edge in edges]
    return tuple(Bin.of(*ends, int(n), int(k)) for ends, n, k in zip(pairwise(bounds), total, hits, strict=True))
