"""Two small pictures of a frame for the contact sheet: the whole of it, and a part at its own scale."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.overlay import Marks, draw_marks
from lynceus.pages import BLUE, GREEN, ORANGE, RED
from lynceus.sky import Sky
from lynceus.truth import Truth
from training.curation.quality import Quality

JPEG_QUALITY = 60
PART = 220  # pixels of the frame on a side of the part
PAD = 40  # columns and rows that a part may be away from its neighbour
LEVELS = 8.0  # units of the stretch that the sky's own range takes, so that patterns are seen
LEAST_TRAIL = 0.2  # of a side; shorter lines are not marked
LEAST_OBJECT = 40.0  # pixels of a large object that is marked
BEADS, ROOM = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), 12.0  # where along a trail circles are drawn, their radius in pixels


def draw_thumbnails(
    frame: Frame,
    sky: Sky,
    truth: Truth | None,
    quality: Quality,
    seen: tuple[Floats, Floats],
    paths: tuple[Path, Path],
    side: int,
) -> None:
    """Write two JPEGs: the frame with the sky as it is, and its busiest part, both with the catalogue's boxes.

    Parameters
    ----------
    frame : Frame
        The picture.
    sky : Sky
        Of the frame.
    truth : Truth or None
        Its boxes are drawn: green, or orange and dashed where they are ignored.
    quality : Quality
        Red circles are drawn along its trail, blue ones around its large objects.
    seen : (ndarray, ndarray)
        `x, y` of the peaks; where there is no truth, they tell which part is the busiest.
    paths : (Path, Path)
        Of the whole and of the part.
    side : int
        About the longer side of each picture, in pixels.
    """
    marks = _marks(truth)
    whole = draw_marks(frame, _flat(sky), [*marks, *_oddities(quality)], least=side, most=side)
    x, y = truth.centres if truth is not None and len(truth) else seen
    left, top = _busiest(x, y, frame.shape)
    cut = np.ascontiguousarray(frame.pixels[top : top + PART, left : left + PART])
    under = _flat_part(sky, left, top, (cut.shape[0], cut.shape[1]))
    shift = np.array([left, top, left, top], float)
    moved = [replace(kind, boxes=_touching(kind.boxes - shift, cut.shape)) for kind in marks]
    part = draw_marks(replace(frame, pixels=cut), under, moved, least=side, most=side)
    for picture, path in zip((whole, part), paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.convert("RGB").save(path, "JPEG", quality=JPEG_QUALITY, optimize=True)


def _marks(truth: Truth | None) -> list[Marks]:
    if truth is None:
        return []
    return [Marks(truth.boxes[truth.ignored], ORANGE, "dashed"), Marks(truth.boxes[~truth.ignored], GREEN)]


def _oddities(quality: Quality) -> list[Marks]:
    """Circles along a trail, and large objects."""
    ends = np.array(quality.trail_ends if quality.trail_length > LEAST_TRAIL else (), float).reshape(-1, 2)
    along = ends[0] + BEADS[:, None] * (ends[1] - ends[0]) if len(ends) else ends
    objects = [one for one in quality.extended if one["diameter"] >= LEAST_OBJECT]
    large = np.array([[one["x"], one["y"], one["diameter"] / 2] for one in objects], float).reshape(-1, 3)
    return [
        Marks(np.concatenate([along - ROOM, along + ROOM], axis=1), RED, "round"),
        Marks(np.concatenate([large[:, :2] - large[:, 2:], large[:, :2] + large[:, 2:]], axis=1), BLUE, "round"),
    ]


def _flat(sky: Sky) -> Sky:
    """One level and one scale for all of the frame, so that what the sky does is seen."""
    low, high = np.percentile(sky.level, [2, 98])
    scale = max(float(np.median(sky.noise)), float(high - low) / LEVELS)
    return Sky(np.full_like(sky.level, low), np.full_like(sky.noise, scale), sky.mesh, sky.shape)


def _flat_part(sky: Sky, left: int, top: int, shape: tuple[int, int]) -> Sky:
    """The sky in the middle of a part of the frame, for all of that part."""
    row = min((top + shape[0] // 2) // sky.mesh, sky.level.shape[0] - 1)
    column = min((left + shape[1] // 2) // sky.mesh, sky.level.shape[1] - 1)
    squares = tuple(-(-length // sky.mesh) for length in shape)
    level = np.full(squares, sky.level[row, column], np.float32)
    return Sky(level, np.full(squares, sky.noise[row, column], np.float32), sky.mesh, shape)


def _busiest(x: Floats, y: Floats, shape: tuple[int, int]) -> tuple[int, int]:
    """First column and row of the part that most positions lie in; of equal ones, that nearest to the middle."""
    height, width = shape
    starts = [np.arange(0, max(length - PART, 0) + 1, PAD) for length in (width, height)]
    bins = [np.append(start, start[-1] + PAD) for start in starts]
    columns = np.histogram2d(x, y, bins=[_edges(width), _edges(height)])[0] if len(x) else None
    if columns is None:
        return max((width - PART) // 2, 0), max((height - PART) // 2, 0)
    sums = np.pad(columns.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    reach = PART // PAD
    counts = np.array(
        [
            [
                sums[min(i + reach, len(sums) - 1), min(j + reach, sums.shape[1] - 1)]
                - sums[i, min(j + reach, sums.shape[1] - 1)]
                - sums[min(i + reach, len(sums) - 1), j]
                + sums[i, j]
                for j in range(len(bins[1]) - 1)
            ]
            for i in range(len(bins[0]) - 1)
        ]
    )
    away = np.hypot(*np.meshgrid(starts[0] + PART / 2 - width / 2, starts[1] + PART / 2 - height / 2, indexing="ij"))
    best = np.unravel_index(int(np.argmin(away - 1e6 * counts)), counts.shape)
    return int(starts[0][best[0]]), int(starts[1][best[1]])


def _edges(length: int) -> Floats:
    return np.arange(0, length + PAD, PAD, dtype=float) - 0.5


def _touching(boxes: Floats, shape: tuple[int, ...]) -> Floats:
    """Boxes of which something is on a part of this shape."""
    inside = (boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (boxes[:, 0] < shape[1]) & (boxes[:, 1] < shape[0])
    return boxes[inside]
