"""How good a list of detections is: average precision and recall, overlaps, counts, curves."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torchmetrics.detection import MeanAveragePrecision

from lynceus.detections import Detections, Floats
from lynceus.figures import Bin, Cap, Counts, Evaluation
from lynceus.matching import Match, Overlaps, count, match_boxes, match_centres, overlaps
from lynceus.truth import Truth

IOU = 0.5  # of a match in the counts, as in map_50
IOU_THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101).tolist()  # COCO's; torchmetrics rounds its own to float32
USUAL_CAP = 100  # detections; COCO's, and the least a cap is
CAPS: dict[Cap, float] = {"at_0.3": 0.3, "at_0.65": 0.65, "at_1.0": 1.0}
BOX_SCALE = 2.5  # sides of a box in FWHM, by the default box rule
SNR_EDGES = np.array([0.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0, np.inf])
SCORE_EDGES = np.linspace(0.0, 1.0, 11).astype(np.float32)
FAINTEST_MAGNITUDE = 50.0  # beyond it, either side of 0, a value is no magnitude
PART = 300  # boxes that are compared each with each: time and memory grow with the square
NEARLY = 1e-3  # how far under the lowest threshold two boxes still stay in one part: rounding must not part a match
Bools = NDArray[np.bool_]
Positions = tuple[Floats, Floats]
_quiet_lock = Lock()  # torchmetrics redirects standard output while it computes, and that is the process's


def evaluate(found: Detections, truth: Truth, *, min_score: float, positions: Positions | None = None) -> Evaluation:
    """Score a list of detections against the sources that are there.

    Parameters
    ----------
    found : Detections
        N detections at any score: average precision and recall need those below `min_score` too.
    truth : Truth
        M sources; each ignored one absorbs at most one detection, which then counts neither right nor wrong.
    min_score : float
        Counts, overlaps, offsets and curves are of the detections from this score up.
    positions : (ndarray, ndarray) or None
        Measured `x, y` of the detections, 0-based pixel centres, shape (N,) each. The centres of the boxes serve
        where they are NaN, or if None.

    Returns
    -------
    Evaluation
        Figures that are not defined, for want of sources or of detections, are None.

    Raises
    ------
    CatalogueError
        If the boxes of both lists lie on one another so much that these cannot be sources.

    Notes
    -----
    A catalogue has one class of sources, so labels are not looked at.
    """
    match = match_boxes(found.boxes, found.scores, truth.boxes, truth.ignored, IOU)
    pairs = overlaps(found.boxes, truth.boxes[~truth.ignored])
    shown = found.scores >= min_score
    found_at = _positions(found, positions)
    # The highest score chooses first: what is under min_score takes nothing from the rest.
    kept, kept_at, kept_match = found[shown], found_at[shown], Match(match.source_of[shown], truth.ignored)
    counts = counts_of(kept_match)
    return Evaluation(
        min_score=min_score,
        detections=len(kept),
        sources=int((~truth.ignored).sum()),
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        counts=counts,
        by_centre=counts_of(_match_by_centre(kept, kept_at, truth)),
        brightness_kind=truth.brightness_kind,
        completeness=_completeness(truth, kept_match.found),
        reliability=_reliability(kept.scores, kept_match),
        **_average_precision(found, truth, match, pairs),
        **_best_overlaps(pairs, shown, shown & ~match.absorbed, int((~truth.ignored).sum())),
        **_offsets(kept_at, truth, kept_match),
    )


def _positions(found: Detections, measured: Positions | None) -> Floats:
    """Where the detections are, shape (N, 2), 0-based pixel centres."""
    centres = np.stack(found.centres, axis=1)
    if measured is None:
        return centres
    positions = np.stack(measured, axis=1)
    return np.where(np.isfinite(positions).all(axis=1)[:, None], positions, centres)


def counts_of(match: Match) -> Counts:
    """The counts of a match, as figures have them."""
    counted = count(match)
    return Counts(
        matched=counted.right,
        missed=counted.missed,
        extra=counted.wrong,
        ignored=int(match.absorbed.sum()),
        sources_ignored=int(match.ignored.sum()),
    )


def _match_by_centre(found: Detections, positions: Floats, truth: Truth) -> Match:
    """Match within one FWHM, as the box rule has it, of the source."""
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).astype(np.float64)
    radius = np.sqrt(sides.prod(axis=1)) / BOX_SCALE
    return match_centres(positions, found.scores, np.stack(truth.centres, axis=1), radius, truth.ignored)


def _average_precision(found: Detections, truth: Truth, match: Match, pairs: Overlaps) -> dict[str, Any]:
    """Average precision and recall of all detections but the absorbed ones, against all sources but the ignored ones.

    What a cap cuts off is cut off here, over the whole frame, and not by torchmetrics, which would do so part by part.
    """
    cap = max(len(found), USUAL_CAP)
    caps = {name: round(share * cap) for name, share in CAPS.items()}
    sources = truth.boxes[~truth.ignored]
    rank = np.argsort(np.argsort(-found.scores[~match.absorbed], kind="stable"))
    boxes = found.boxes[~match.absorbed]
    part_of_found, part_of_source = _parts(pairs, ~match.absorbed, len(sources))
    figures: dict[str, Any] = dict.fromkeys(("map", "map_50", "map_75"), None if not len(sources) else 0.0)
    recalls = dict.fromkeys(caps, figures["map"])
    if len(sources) and len(boxes):
        for name, most in caps.items():
            best = rank < most
            scored = _coco((boxes[best], rank[best], part_of_found[best]), (sources, part_of_source), caps)
            recalls[name] = scored[f"mar_{cap}"]
        figures = {name: scored[name] for name in figures}
    return {**figures, "mar": recalls, "caps": caps}


def _parts(pairs: Overlaps, kept: Bools, sources: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Divide a frame into parts that no possible match crosses.

    COCO's matching looks at every detection with every source of a part and its precision at all parts together, so
    that the figures are those of the frame in one piece, in a fraction of the time.

    Returns
    -------
    part_of_found, part_of_source : ndarray of int
        Of the detections kept, in their order, and of the sources.
    """
    close = kept[pairs.first] & (pairs.iou > IOU_THRESHOLDS[0] - NEARLY)
    row = (np.cumsum(kept) - 1)[pairs.first[close]]
    column = pairs.second[close] + kept.sum()
    size = int(kept.sum()) + sources
    links = coo_array((np.ones(len(row), bool), (row, column)), shape=(size, size))
    _, group = connected_components(links, directed=False)
    part = (np.cumsum(np.bincount(group)) // PART)[group]
    return part[: kept.sum()], part[kept.sum() :]


def _coco(
    found: tuple[Floats, NDArray[np.intp], NDArray[np.intp]],
    sources: tuple[Floats, NDArray[np.intp]],
    caps: dict[Cap, int],
) -> dict[str, float]:
    """Ask torchmetrics: `found` are boxes, ranks and parts, `sources` boxes and parts."""
    boxes, rank, part = found
    true_boxes, true_part = sources
    metric = MeanAveragePrecision(
        iou_thresholds=IOU_THRESHOLDS,
        rec_thresholds=RECALL_THRESHOLDS,
        max_detection_thresholds=list(caps.values()),
        backend="faster_coco_eval",
    )
    for one in np.unique(np.concatenate([part, true_part])):
        here, there = part == one, true_part == one
        # Scores only order the list; from ranks, equal ones stay in the order of the list whatever the part.
        scores = torch.from_numpy(1 - rank[here] / (rank.max() + 1.0))
        metric.update([{**_tensors(boxes[here]), "scores": scores}], [_tensors(true_boxes[there])])
    with _quiet():
        computed = metric.compute()
    return {name: round(float(value), 6) for name, value in computed.items() if value.numel() == 1}


def _tensors(boxes: Floats) -> dict[str, torch.Tensor]:
    """Boxes as torchmetrics takes them, in float64: it turns edges to sizes, and float32 would round those."""
    return {"boxes": torch.from_numpy(boxes.astype(np.float64)), "labels": torch.zeros(len(boxes), dtype=torch.int64)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Let faster_coco_eval say nothing, one thread at a time."""
    logger = logging.getLogger("faster_coco_eval")
    with _quiet_lock:
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


def _best_overlaps(pairs: Overlaps, shown: Bools, counted: Bools, sources: int) -> dict[str, float | None]:
    """Mean over the sources of the best overlap with a detection that is shown, and over those counted the converse."""
    by_source, by_detection = np.zeros(sources), np.zeros(len(shown))
    np.maximum.at(by_source, pairs.second[shown[pairs.first]], pairs.iou[shown[pairs.first]])
    np.maximum.at(by_detection, pairs.first, pairs.iou)
    return {"best_iou_per_gt": _mean(by_source), "best_iou_per_prediction": _mean(by_detection[counted])}


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _offsets(positions: Floats, truth: Truth, match: Match) -> dict[str, float | None]:
    """How far the matched detections lie from their sources, in pixels."""
    names = ("median_centroid_offset", "median_dx", "median_dy")
    if not match.right.any():
        return dict.fromkeys(names)
    dx, dy = (positions[match.right] - np.stack(truth.centres, axis=1)[match.source_of[match.right]]).T
    return {name: float(np.median(values)) for name, values in zip(names, (np.hypot(dx, dy), dx, dy), strict=True)}


def _completeness(truth: Truth, hit: Bools) -> tuple[Bin, ...]:
    """The share of sources matched, by brightness; sources of unknown brightness are in no bin."""
    counted = ~truth.ignored & np.isfinite(truth.brightness)
    if truth.brightness_kind == "magnitude":
        counted &= np.abs(truth.brightness) < FAINTEST_MAGNITUDE
    if truth.brightness_kind == "none" or not counted.any():
        return ()
    values = truth.brightness[counted]
    whole = np.arange(np.floor(values.min()), np.floor(values.max()) + 2)
    return _binned(values, hit[counted], SNR_EDGES if truth.brightness_kind == "snr" else whole)


def _reliability(scores: Floats, match: Match) -> tuple[Bin, ...]:
    """The share of detections that are sources, by score; absorbed ones are in no bin."""
    counted = ~match.absorbed
    return _binned(scores[counted], match.right[counted], SCORE_EDGES)


def _binned(values: Floats, hit: Bools, edges: Floats) -> tuple[Bin, ...]:
    """Counts between edges; the first and the last bin take what lies outside."""
    inside = np.digitize(values, edges[1:-1])
    total, hits = (np.bincount(inside[some], minlength=len(edges) - 1) for some in (slice(None), hit))
    bounds = [round(float(edge), 6) if np.isfinite(edge) else None for edge in edges]
    return tuple(Bin.of(*ends, int(n), int(k)) for ends, n, k in zip(pairwise(bounds), total, hits, strict=True))
