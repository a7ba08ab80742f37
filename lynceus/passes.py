"""What two passes over one frame, at its own scale and binned, say together."""

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Detections, Floats
from lynceus.matching import pair_iou

LEAST_SCORE = 0.5  # of a large box: under it are halos, and shifted copies of sure ones
OFF = 0.1  # of a box's side that may lie beyond the frame, where its tile was padded
COPY = 0.3  # IoU from which two large boxes are one
SAME = 0.4  # IoU from which both passes saw the same, and the higher score stays
INSIDE, CORE = 0.8, 0.1  # radii of the box's ellipse within which pieces lie, and the nucleus
EXTENDED = 1.5  # typical sizes of the frame from which a detection within a large one is a piece, and no star
SURE, FEWEST = 0.8, 5  # score of the detections that tell the typical size, and how many it takes


def merge_passes(fine: Detections, coarse: Detections, shape: tuple[int, int], least_side: float) -> Detections:
    """Join what was found at a frame's own scale and on it binned.

    Parameters
    ----------
    fine, coarse : Detections
        Both in the frame's pixels, by falling score.
    shape : (int, int)
        Height and width of the frame.
    least_side : float
        Smaller boxes of the coarse pass are the other one's business, in pixels.

    Returns
    -------
    Detections
        By falling score. A galaxy that the coarse pass saw whole stands in the place of its nucleus and of the pieces
        that the fine pass made of it; what is as small as a star in front of it stays.
    """
    large = whole_boxes(coarse, shape, least_side)
    if not len(large):
        return fine
    drop, keep = np.zeros(len(fine), bool), np.ones(len(large), bool)
    sides = (fine.boxes[:, 2:] - fine.boxes[:, :2]).max(axis=1, initial=0)
    typical, scores = typical_side(fine), large.scores.copy()
    for index in range(len(large)):
        box = large.boxes[index].astype(np.float64)
        alike = fine.labels == large.labels[index]
        shared = np.where(alike, _iou(box, fine), 0.0)
        if (fine.scores[shared > SAME] > large.scores[index]).any():
            keep[index] = False
            continue
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        radius = np.hypot(*((np.stack(fine.centres, axis=1) + 0.5 - middle) / half).T)
        pieces = (radius < INSIDE) & (sides > EXTENDED * typical)
        here = (shared > SAME) | ((pieces | (radius < CORE)) & (sides < 2 * half.max()) & alike)
        scores[index] = max(scores[index], fine.scores[here].max(initial=0))  # the whole is as sure as its parts
        drop |= here
    wholes = Detections(large.boxes, scores, large.labels)[keep]
    joined = Detections.concatenate([fine[~drop], wholes])
    return joined[np.argsort(-joined.scores, kind="stable")]


def whole_boxes(coarse: Detections, shape: tuple[int, int], least_side: float) -> Detections:
    """The large boxes of a coarse pass that are on the frame, cut at its borders, each once, by falling score."""
    height, width = shape
    cut = np.clip(coarse.boxes, 0, np.array([width, height, width, height], np.float32))
    sides = cut[:, 2:] - cut[:, :2]
    on_frame = (sides > (1 - OFF) * (coarse.boxes[:, 2:] - coarse.boxes[:, :2])).all(axis=1)
    usable = on_frame & (sides.max(axis=1, initial=0) > least_side) & (coarse.scores >= LEAST_SCORE)
    large = Detections(cut[usable], coarse.scores[usable], coarse.labels[usable])
    kept: list[int] = []
    for index in range(len(large)):
        before = large[np.array(kept, np.intp)]
        same = before.labels == large.labels[index]
        if (_iou(large.boxes[index].astype(np.float64), before) * same).max(initial=0) < COPY:
            kept.append(index)
    return large[np.array(kept, np.intp)]


def typical_side(fine: Detections) -> float:
    """Median side of the sure detections, in pixels; infinite where they are too few to tell."""
    sure = fine.scores > SURE
    sides = (fine.boxes[:, 2:] - fine.boxes[:, :2]).max(axis=1, initial=0)
    return float(np.median(sides[sure])) if sure.sum() >= FEWEST else np.inf


def _iou(box: Floats, others: Detections) -> NDArray[np.float64]:
    """Intersection over union of one box (4,) with N others, (N,)."""
    return np.asarray(pair_iou(np.repeat(box[None], len(others), axis=0), others.boxes.astype(np.float64)), np.float64)
