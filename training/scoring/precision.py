"""Average precision and recall over many frames, by COCO's definition, one frame in memory at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Detections, Floats
from lynceus.matching import match_boxes
from lynceus.scoring import IOU, IOU_THRESHOLDS, RECALL_THRESHOLDS

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ranked:
    """The detections of one frame that count, by falling score, and which of them are sources.

    Attributes
    ----------
    scores : ndarray, shape (N,)
        Falling.
    hits : ndarray, shape (N, T), bool
        Whether each is a source, at each of some IoU.
    sources : int
        How many there are to be found.
    """

    scores: Floats
    hits: Bools
    sources: int


def rank(
    found: Detections, boxes: Floats, ignored: Bools, thresholds: Sequence[float] = tuple(IOU_THRESHOLDS)
) -> Ranked:
    """Match the detections of one frame with its sources, at each IoU.

    Parameters
    ----------
    found : Detections
        At any score.
    boxes : ndarray, shape (M, 4)
        Of the sources.
    ignored : ndarray, shape (M,), bool
        Sources that absorb a detection each, which is then left out.
    thresholds : sequence of float
        T of them.
    """
    absorbed = match_boxes(found.boxes, found.scores, boxes, ignored, IOU).absorbed
    found, boxes = found[~absorbed], boxes[~ignored]
    found = found[np.argsort(-found.scores, kind="stable")]
    none = np.zeros(len(boxes), bool)
    hits = [match_boxes(found.boxes, found.scores, boxes, none, threshold).right for threshold in thresholds]
    return Ranked(found.scores, np.stack(hits, axis=1), len(boxes))


def average_precision(frames: Sequence[Ranked]) -> Floats | None:
    """Average precision of all frames together.

    Parameters
    ----------
    frames : sequence of Ranked
        Their scores are comparable.

    Returns
    -------
    ndarray, shape (T,), or None
        At each IoU; None without sources.

    Notes
    -----
    The mean over 101 recalls of the best precision at that recall or beyond; of equal scores the first in the list
    comes first, that of the first frame before others.
    """
    sources = sum(frame.sources for frame in frames)
    if not sources:
        return None
    scores = np.concatenate([frame.scores for frame in frames])
    if not len(scores):
        return np.zeros(frames[0].hits.shape[1])
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(np.concatenate([frame.hits for frame in frames])[order], axis=0)
    precision = right / np.arange(1, len(scores) + 1)[:, None]
    best = np.pad(np.maximum.accumulate(precision[::-1])[::-1], ((0, 1), (0, 0)))  # a recall never reached: 0
    at = [np.searchsorted(column, RECALL_THRESHOLDS, side="left") for column in (right / sources).T]
    return np.array([best[places, column].mean() for column, places in enumerate(at)])


def average_recall(frames: Sequence[Ranked], most: int) -> float | None:
    """Recall of the `most` surest detections of each frame, the mean over the IoU; None without sources."""
    sources = sum(frame.sources for frame in frames)
    if not sources:
        return None
    return float(sum(frame.hits[:most].sum() for frame in frames) / sources / frames[0].hits.shape[1])
