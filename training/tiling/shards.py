"""Tiles with their truth, and the files they lie in: safetensors, some dozens of tiles each."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lynceus.durable import write_whole
from lynceus.tiling import Tile
from training.errors import TrainingError

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LabelledTile:
    """A square view of a frame with its truth; lengths are pixels, boxes edge coordinates within the tile.

    Attributes
    ----------
    pixels : ndarray, shape (T, T), float32
        ADU, NaN where masked or outside the frame.
    window : ndarray, shape (2, K, K), float32
        Level and log noise of the sky around the tile; see `lynceus.sky.Sky.window`.
    phase : ndarray, shape (2,), float32
        Where the tile's first pixel lies in the window, in squares.
    mesh : int
        Side of a square of the window.
    boxes : ndarray, shape (N, 4), float32
        Of the sources, cut at the tile's border.
    labels : ndarray, shape (N,), int64
        Class of each source, from 1.
    ignored : ndarray, shape (M, 4), float32
        Boxes that take no loss.
    hidden : ndarray, shape (T, T), bool, or None
        Pixels that take no loss.
    brightness : ndarray, shape (N,), float32
        Signal to noise or magnitude, NaN where it is not known.
    key : str
        Of the exposure.
    origin : (int, int)
        First column and row in the frame.

    Raises
    ------
    ValueError
        If the shapes do not agree.
    """

    pixels: Floats32
    window: Floats32
    phase: Floats32
    mesh: int
    boxes: Floats32
    labels: NDArray[np.int64]
    ignored: Floats32
    hidden: NDArray[np.bool_] | None
    brightness: Floats32
    key: str
    origin: tuple[int, int]

    def __post_init__(self) -> None:
        size, count = len(self.pixels), len(self.boxes)
        if self.pixels.shape != (size, size) or self.window.shape[0] != 2 or self.phase.shape != (2,):
            raise ValueError("a tile is square, and has a window of two maps and a phase of two numbers")
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,) or self.brightness.shape != (count,):
            raise ValueError(f"{count} boxes need as many labels and brightnesses")
        if self.ignored.shape != (len(self.ignored), 4):
            raise ValueError("ignored must have shape (M, 4)")
        if self.hidden is not None and self.hidden.shape != self.pixels.shape:
            raise ValueError("hidden must have the shape of the tile")

    @property
    def size(self) -> int:
        """Side of the tile, in pixels."""
        return len(self.pixels)

    @property
    def tile(self) -> Tile:
        """The same without its truth, as the detector takes it."""
        everywhere = (-np.inf, -np.inf, np.inf, np.inf)
        return Tile(self.pixels, self.window, self.phase, self.mesh, self.origin, everywhere)


def write_shard(path: Path, tiles: Sequence[LabelledTile]) -> str:
    """Write tiles of one size into a file, whole or not at all.

    Returns
    -------
    str
        The sha256 of the file, which depends on the tiles alone.
    """
    # of an array that is not contiguous the library writes the bytes as they lie, without a word
    data = safetensors.numpy.save({name: np.ascontiguousarray(values) for name, values in _tensors(tiles).items()})
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def read_tile(path: Path, index: int, key: str, mesh: int) -> LabelledTile:
    """Read one tile of a shard, and none of the others.

    Parameters
    ----------
    path : Path
        Of the shard.
    index : int
        Of the tile in it.
    key : str
        Of the exposure it is cut from.
    mesh : int
        Side of a square of its window, in pixels.

    Raises
    ------
    TrainingError
        If the file is missing or damaged.

    Notes
    -----
    The file is mapped for the time of the call and let go, so that what was read before does not stay in memory, and
    nothing open is carried into another process.
    """
    try:
        with safe_open(path, framework="numpy") as shard:
            return _read(shard, index, key, mesh)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the tiles in {path} cannot be read: {error}") from error


def _tensors(tiles: Sequence[LabelledTile]) -> dict[str, NDArray[Any]]:
    """What varies in number is joined; row i of `ends` says where the sources and ignored boxes of tile i end."""
    shown = [tile.hidden for tile in tiles if tile.hidden is not None]
    has_mask = np.array([tile.hidden is not None for tile in tiles])
    size = tiles[0].size
    counts = np.array([[len(tile.boxes), len(tile.ignored)] for tile in tiles], np.int64)
    return {
        "pixels": np.stack([tile.pixels for tile in tiles]),
        "window": np.stack([tile.window for tile in tiles]),
        "phase": np.stack([tile.phase for tile in tiles]),
        "origin": np.array([tile.origin for tile in tiles], np.int64),
        "ends": np.cumsum(counts, axis=0),
        "boxes": np.concatenate([tile.boxes for tile in tiles]),
        "labels": np.concatenate([tile.labels for tile in tiles]),
        "brightness": np.concatenate([tile.brightness for tile in tiles]),
        "ignored": np.concatenate([tile.ignored for tile in tiles]),
        "mask": np.where(has_mask, np.cumsum(has_mask) - 1, -1),
        "hidden": np.stack(shown) if shown else np.zeros((0, size, size), np.bool_),
    }


def _read(shard: Any, index: int, key: str, mesh: int) -> LabelledTile:
    def row(name: str, at: int = index) -> NDArray[Any]:
        return np.asarray(shard.get_slice(name)[at : at + 1][0])

    sources, ignored = row("ends")
    first_source, first_ignored = row("ends", index - 1) if index else (0, 0)
    own = slice(int(first_source), int(sources))
    mask = int(row("mask"))
    x, y = row("origin").tolist()
    return LabelledTile(
        row("pixels"),
        row("window"),
        row("phase"),
        mesh,
        _part(shard, "boxes", own),
        _part(shard, "labels", own),
        _part(shard, "ignored", slice(int(first_ignored), int(ignored))),
        row("hidden", mask) if mask >= 0 else None,
        _part(shard, "brightness", own),
        key,
        (x, y),
    )


def _part(shard: Any, name: str, rows: slice) -> NDArray[Any]:
    """Some rows of a tensor; the library refuses a slice of no rows."""
    if rows.start == rows.stop:
        tensor = shard.get_slice(name)
        return np.zeros((0, *tensor.get_shape()[1:]), np.int64 if name == "labels" else np.float32)
    return np.asarray(shard.get_slice(name)[rows.start : rows.stop])
