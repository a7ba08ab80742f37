"""Tile detections to frame detections: ownership, borders, suppression."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from lynceus.detections import Detections, Floats
from lynceus.spec import Spec
from lynceus.tiling import Tile

BORDER = 0.5  # a box that comes this close to its tile's border was cut by it, pixels
COVERED = 0.7  # the share of a cut box that a whole one must cover to replace it


class Suppression(Spec):
    """When two detections are one.

    Attributes
    ----------
    by : {"iou", "centre"}
        Intersection over union of the boxes, or distance of their centres as a fraction of
        their mean side (the larger of the two axes).
    threshold : float
        IoU above which, or distance below which, the lower score is dropped.
    """

    by: Literal["iou", "centre"] = "iou"
    threshold: float = Field(0.5, ge=0, le=1)


class SizePrior(Spec):
    """What the sure detections of a frame say about the size of the unsure ones.

    Most faint sources are as wide as the optics make them, and their own pixels hardly tell. So a box is drawn towards
    the typical size of its frame, the more the lower its score; boxes that clearly differ keep their size.

    Attributes
    ----------
    weight : float
        Share of the way (in log size) that a box of score 0 is moved; 0 for none.
    span : float
        Boxes larger or smaller than typical by more than this factor are left alone.
    sure : float
        Detections with a higher score tell the typical size.
    least : int
        With fewer of them, nothing is moved.
    """

    weight: float = Field(0.8, ge=0, le=1)
    span: float = Field(1.6, ge=1)
    sure: float = Field(0.8, ge=0, le=1)
    least: int = Field(5, ge=1)


def steady_sizes(detections: Detections, prior: SizePrior) -> Detections:
    """Draw the boxes of unsure detections towards the typical size of their frame; centres and scores stay.

    Parameters
    ----------
    detections : Detections
        Of one whole frame.
    prior : SizePrior
        How far.

    Returns
    -------
    Detections
        In the same order.
    """
    boxes = detections.boxes.astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    size = np.sqrt(sides.prod(axis=1))
    sure = detections.scores > prior.sure
    if prior.weight == 0 or sure.sum() < prior.least:
        return detections
    off = np.log(size / np.median(size[sure]))
    share = prior.weight * np.sqrt(1 - detections.scores) * (np.abs(off) < np.log(prior.span))
    half = sides / 2 * np.exp(-share * off)[:, None]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    moved = np.concatenate([centre - half, centre + half], axis=1)
    return Detections(moved.astype(np.float32), detections.scores, detections.labels)


def merge_tiles(found: Sequence[Detections], tiles: Sequence[Tile], spec: Suppression, margin: float) -> Detections:
    """Join what was found in the tiles into one list without duplicates.

    Parameters
    ----------
    found : sequence of Detections
        One a tile, in the tile's own pixels.
    tiles : sequence of Tile
        In the same order.
    spec : Suppression
        Applied between detections of different tiles; each tile's own list is taken as it is.
    margin : float
        How far outside its core a tile may claim a detection, in pixels.

    Returns
    -------
    Detections
        In the frame's pixels, by falling score.
    """
    owned, cut, source = [], [], []
    for index, (detections, tile) in enumerate(zip(found, tiles, strict=True)):
        here = detections.moved(*tile.origin)
        here = here[_inside(here, tile.core, margin)]
        owned.append(here)
        cut.append(_cut_by_border(here, tile))
        source.append(np.full(len(here), index))
    everything = Detections.concatenate(owned)
    if not len(everything):
        return everything
    keep = _suppress(everything, np.concatenate(cut), np.concatenate(source), spec)
    return everything[keep]


def _inside(detections: Detections, core: tuple[float, float, float, float], margin: float) -> NDArray[np.bool_]:
    boxes = detections.boxes
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    x_min, y_min, x_max, y_max = core
    inside = (x >= x_min - margin) & (x < x_max + margin) & (y >= y_min - margin) & (y < y_max + margin)
    return np.asarray(inside)


def _cut_by_border(detections: Detections, tile: Tile) -> NDArray[np.bool_]:
    """True where a box touches a border of its tile that is not the frame's own."""
    (x, y), (x_min, y_min, x_max, y_max) = tile.origin, tile.core
    borders = np.array([x + BORDER, y + BORDER, x + tile.size - BORDER, y + tile.size - BORDER])
    inner = np.isfinite([x_min, y_min, x_max, y_max])
    touches = np.concatenate([detections.boxes[:, :2] <= borders[:2], detections.boxes[:, 2:] >= borders[2:]], axis=1)
    return np.asarray((touches & inner).any(axis=1))


def _suppress(
    detections: Detections, cut: NDArray[np.bool_], source: NDArray[np.intp], spec: Suppression
) -> NDArray[np.intp]:
    """Indices to keep, by falling score: whole boxes first, each drops the later ones it stands for."""
    boxes = detections.boxes.astype(np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    neighbours = cKDTree(centres).query_ball_point(centres, reach, p=np.inf)
    pairs = np.array([(i, j) for i, near in enumerate(neighbours) for j in near if source[i] != source[j]], int)
    order = np.lexsort((-detections.scores, cut))
    kept = np.ones(len(boxes), bool)
    if len(pairs):
        rank = np.empty(len(order), int)
        rank[order] = np.arange(len(order))
        first, second = np.where((rank[pairs[:, 0]] < rank[pairs[:, 1]])[:, None], pairs, pairs[:, ::-1]).T
        same = _are_one(boxes[first], boxes[second], cut[second], spec)
        same &= detections.labels[first] == detections.labels[second]
        by_rank = np.argsort(rank[first[same]], kind="stable")
        for winner, loser in zip(first[same][by_rank], second[same][by_rank], strict=True):
            if kept[winner]:
                kept[loser] = False
    by_score = np.argsort(-detections.scores, kind="stable")
    return np.asarray(by_score[kept[by_score]])


def _are_one(winner: Floats, loser: Floats, loser_cut: NDArray[np.bool_], spec: Suppression) -> NDArray[np.bool_]:
    """True where the second box of a pair claims what the first one holds; boxes (M, 4)."""
    overlap = np.minimum(winner[:, 2:], loser[:, 2:]) - np.maximum(winner[:, :2], loser[:, :2])
    shared = np.clip(overlap, 0, None).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (winner, loser)]
    covered = loser_cut & (shared > COVERED * areas[1])
    if spec.by == "iou":
        return np.asarray(covered | (shared > spec.threshold * (areas[0] + areas[1] - shared)))
    between = np.abs(winner[:, :2] + winner[:, 2:] - loser[:, :2] - loser[:, 2:]) / 2
    side = (winner[:, 2:] - winner[:, :2] + loser[:, 2:] - loser[:, :2]) / 2
    return np.asarray(covered | (between < spec.threshold * side).all(axis=1))
