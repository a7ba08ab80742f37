"""Where the tiles of an exposure lie, and what of its truth each of them shows."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Floats
from lynceus.tiling import TileSpec, tile_starts
from lynceus.truth import Truth
from training.errors import TrainingError
from training.tiling.exposures import LabelledExposure
from training.tiling.shards import LabelledTile
from training.tiling.tileset import TileSetSpec

LEAST_SEEN = 0.5  # a source whose box shows less than this share inside a tile is ignored there
LEAST_SIDE = 1.0  # pixels of a box that must be inside, each way
TRIES = 64  # random offsets of which the first with a source is taken
Offset = tuple[int, int]


def tiles_of(exposure: LabelledExposure, spec: TileSetSpec, classes: Sequence[str]) -> list[LabelledTile]:
    """The tiles of an exposure that are kept.

    Parameters
    ----------
    exposure : LabelledExposure
        Of any size; a tile is padded with masked pixels where the frame is smaller.
    spec : TileSetSpec
        Size and placing, and the share of tiles without a source that is kept: which ones depends on the seed, the
        exposure's key and their place alone.
    classes : sequence of str
        See `labels_of`.

    Raises
    ------
    TrainingError
        If there are several classes, and the truth does not tell them apart.
    """
    labels = labels_of(exposure.truth, classes)
    tiles = (cut(exposure, labels, offset, spec.size) for offset in offsets_of(exposure, labels > 0, spec))
    return [
        tile
        for tile in tiles
        if len(tile.boxes) or (np.isfinite(tile.pixels).any() and _chosen(tile.key, tile.origin, spec))
    ]


def labels_of(truth: Truth, classes: Sequence[str]) -> NDArray[np.int64]:
    """What the network shall call each source of a truth.

    Parameters
    ----------
    truth : Truth
        M sources.
    classes : sequence of str
        Of one class alone, every source is. Of several, a source is the one that is its kind, in whatever case.

    Returns
    -------
    ndarray, shape (M,), int64
        Index of the class, from 1; 0 for what takes no loss: ignored sources, and those of another kind or none.

    Raises
    ------
    TrainingError
        If there are several classes, and the truth has sources and no kinds.
    """
    if len(classes) == 1:
        return np.where(truth.ignored, 0, 1).astype(np.int64)
    if truth.kinds is None:
        if len(truth):
            raise TrainingError(
                f"the catalogue does not tell {', '.join(classes)} apart: it needs a column KIND, CLASS or CLASS_STAR"
            )
        return np.zeros(0, np.int64)
    number = {name.lower(): index for index, name in enumerate(classes, start=1)}
    found = np.array([number.get(kind.lower(), 0) for kind in truth.kinds], np.int64)
    return np.where(truth.ignored, 0, found)


def cut(exposure: LabelledExposure, labels: NDArray[np.int64], offset: Offset, size: int) -> LabelledTile:
    """Cut one tile and the truth in it.

    Parameters
    ----------
    exposure : LabelledExposure
        With M sources.
    labels : ndarray, shape (M,)
        Of `labels_of`.
    offset : (int, int)
        First column and row of the tile.
    size : int
        Side of the tile, in pixels.

    Returns
    -------
    LabelledTile
        Sources of which less than half of the box is inside are among the ignored.
    """
    x, y = offset
    boxes = exposure.truth.boxes - np.array([x, y, x, y])
    inside = np.clip(boxes, 0, size)
    touching = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    positive = (labels > 0) & _seen(boxes, size)
    ignored = touching & ~positive
    hidden = None if exposure.hidden is None else _square(exposure.hidden, offset, size, False)
    window, phase = exposure.sky.window(x, y, size)
    return LabelledTile(
        _square(exposure.frame.pixels, offset, size, np.nan),
        window,
        phase,
        exposure.sky.mesh,
        inside[positive].astype(np.float32),
        labels[positive],
        inside[ignored].astype(np.float32),
        hidden if hidden is not None and hidden.any() else None,
        exposure.truth.brightness[positive].astype(np.float32),
        exposure.key,
        offset,
    )


def offsets_of(exposure: LabelledExposure, positive: NDArray[np.bool_], spec: TileSetSpec) -> list[Offset]:
    """First column and row of each tile: a grid that covers the frame, or random ones that show a source.

    Without a source on the frame the random ones lie anywhere.
    """
    if spec.placing == "grid":
        grid = TileSpec(size=spec.size, overlap=0, margin=0)
        rows, columns = (tile_starts(length, grid) for length in exposure.frame.shape)
        return [(x, y) for y in rows for x in columns]
    rng = np.random.default_rng([spec.seed, _number(exposure.key)])
    boxes = exposure.truth.boxes[positive]
    drawn = [_random_offset(exposure.frame.shape, boxes, spec.size, rng) for _ in range(spec.per_frame)]
    return list(dict.fromkeys(drawn))


def _random_offset(shape: tuple[int, int], boxes: Floats, size: int, rng: np.random.Generator) -> Offset:
    """An offset that shows one of the boxes (P, 4); of a sparse frame, one about a box drawn first."""
    last = np.maximum(np.array([shape[1], shape[0]]) - size, 0)
    tries = rng.integers(0, last + 1, (TRIES, 2))
    chosen = tries[0]
    if len(boxes):
        shows = _seen(boxes - np.tile(tries, 2)[:, None], size).any(axis=1)
        chosen = tries[np.argmax(shows)] if shows.any() else _about(boxes[rng.integers(len(boxes))], last, size, rng)
    return int(chosen[0]), int(chosen[1])


def _about(box: Floats, last: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """An offset up to `last` (2,) from which a box (4,) is whole, or as much of it as can be."""
    low, high = np.ceil(box[2:] - size), np.floor(box[:2])
    low, high = (np.clip(np.where(low <= high, edge, (low + high) // 2), 0, last).astype(int) for edge in (low, high))
    return rng.integers(low, high + 1)


def _seen(boxes: Floats, size: int) -> NDArray[np.bool_]:
    """Whether enough of boxes (..., 4) lies inside a tile."""
    inside = np.clip(boxes, 0, size)
    sides = inside[..., 2:] - inside[..., :2]
    share = sides.prod(axis=-1) / (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    return np.asarray((share >= LEAST_SEEN) & (sides >= LEAST_SIDE).all(axis=-1))


def _square(values: NDArray[Any], offset: Offset, size: int, outside: float | bool) -> NDArray[Any]:
    """A copy of the tile's part of an array (H, W)."""
    x, y = offset
    part = values[y : y + size, x : x + size]
    square = np.full((size, size), outside, values.dtype)
    square[: part.shape[0], : part.shape[1]] = part
    return square


def _chosen(key: str, offset: Offset, spec: TileSetSpec) -> bool:
    """Whether a tile without a source is among those kept."""
    return _number(f"{spec.seed}:{key}:{offset[0]}:{offset[1]}") < spec.negatives * 2**64


def _number(text: str) -> int:
    """64 bits that look like chance and are not."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
