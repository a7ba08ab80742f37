"""Tiles to train on: an endless, shuffled, resumable stream over a tile set on disk."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lynceus.normalise import NormaliseSpec, normalise
from training.errors import TrainingError
from training.fitting.augment import AugmentSpec, Target, augment, crop_truth

if TYPE_CHECKING:
    from training.tiling.tileset import LabelledTile

SHUFFLE = 0x5AFF1E  # sets the generator that orders an epoch apart from those of the items
Item = tuple[Tensor, Target]


class Batches(Sampler[list[int]]):
    """The numbers of the items of each batch, for ever.

    Parameters
    ----------
    size : int
        Items a batch.
    first : int
        Number of the first batch: where a run stopped.
    rank, ranks : int
        Of this process among those that train together; each batch number stands for `ranks` batches, one each.
    """

    def __init__(self, size: int, first: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.size, self.first, self.rank, self.ranks = size, first, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of `size` item numbers; which process reads which does not depend on loader workers."""
        number = self.first
        while True:
            start = (number * self.ranks + self.rank) * self.size
            yield list(range(start, start + self.size))
            number += 1


class TileStream(Dataset[Item]):
    """An endless list of crops of a tile set; item i depends on the seed and i alone.

    Every tile comes once an epoch, in an order of that epoch's own.

    Parameters
    ----------
    tiles : sequence of LabelledTile
        Read one at a time, when its item is asked for.
    crop : int
        Side of a crop, in pixels; the tiles' own for no cropping.
    stretch : NormaliseSpec
        How counts become network input.
    varied : AugmentSpec
        How tiles are varied.
    seed : int
        Of the list.

    Raises
    ------
    TrainingError
        If there are no tiles, or smaller ones than the crop.
    """

    def __init__(
        self, tiles: "Sequence[LabelledTile]", crop: int, stretch: NormaliseSpec, varied: AugmentSpec, seed: int
    ) -> None:
        if not len(tiles):
            raise TrainingError("the tile set has no tiles to train on: its split `train` is empty")
        if crop > (side := len(tiles[0].pixels)):
            raise TrainingError(f"crops of {crop} px cannot be cut from tiles of {side} px: lower `crop` in the recipe")
        self.tiles, self.crop, self.stretch, self.varied, self.seed = tiles, crop, stretch, varied, seed

    def __getitem__(self, item: int) -> Item:
        """Tile (C, T, T) and its target."""
        epoch, place = divmod(item, len(self.tiles))
        tile = self.tiles[int(shuffled(len(self.tiles), self.seed, epoch)[place])]
        rng = np.random.default_rng([self.seed, item])
        room = len(tile.pixels) - self.crop + 1
        x, y = (int(corner) for corner in rng.integers(0, room, 2))
        return augment(*view(tile, x, y, self.crop, self.stretch), self.varied, self.stretch, rng)


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """The order of `count` tiles in an epoch."""
    return np.random.default_rng([seed, SHUFFLE, epoch]).permutation(count)


def view(tile: "LabelledTile", x: int, y: int, side: int, stretch: NormaliseSpec) -> Item:
    """The part of a tile whose first pixel is (x, y), normalised, with the truth inside it."""
    here = np.s_[y : y + side, x : x + side]
    phase = tile.phase + np.array([y, x], np.float32) / tile.mesh  # the window is the whole tile's
    pixels, window = np.array(tile.pixels[here], np.float32), np.array(tile.window, np.float32)
    parts = (pixels[None], window, phase.astype(np.float32))
    stacked, windows, phases = (torch.from_numpy(part)[None] for part in parts)
    corner = torch.tensor([x, y, x, y], dtype=torch.float32)
    boxes, ignored = (torch.from_numpy(np.array(part, np.float32)) - corner for part in (tile.boxes, tile.ignored))
    target = crop_truth(boxes, ignored, torch.from_numpy(np.array(tile.labels, np.int64)), side)
    if tile.hidden is not None and tile.hidden[here].any():
        target["hidden"] = torch.from_numpy(np.array(tile.hidden[here], bool))
    return normalise(stacked, windows, phases, tile.mesh, stretch)[0], target


def whole_tiles(tiles: "Sequence[LabelledTile]", stretch: NormaliseSpec, most: int = 0) -> Iterator[Item]:
    """The tiles as they are, or `most` of them spread evenly: what a network is validated on."""
    count = len(tiles)
    for index in np.unique(np.linspace(0, count - 1, min(most or count, count)).round().astype(int)):
        tile = tiles[int(index)]
        yield view(tile, 0, 0, len(tile.pixels), stretch)
