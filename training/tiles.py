"""Tiles to train on: random crops of simulated frames, turned and flipped, with their truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from torch import Tensor
from torch.utils.data import IterableDataset

from lynceus.detections import Floats
from lynceus.frame import Frame, read_frame
from lynceus.normalise import NormaliseSpec, normalise, stack_tiles
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.tiling import Tile

LEAST_SEEN = 0.5  # a source whose box shows less than this share inside a crop is ignored there
Target = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame with its truth: boxes (N, 4) in edge coordinates, and which of them take no loss."""

    frame: Frame
    sky: Sky
    boxes: Floats
    ignored: np.ndarray
    truth: Table


def read_labelled(path: Path, sky: SkySpec) -> LabelledFrame:
    """Read `00000.fits` and the truth `00000.ecsv` beside it."""
    frame = read_frame(path.read_bytes())
    truth = Table.read(path.with_suffix(".ecsv"), format="ascii.ecsv")
    boxes = np.stack([np.asarray(truth[edge], float) for edge in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    return LabelledFrame(frame, estimate_sky(frame, sky), boxes, np.asarray(truth["ignored"], bool), truth)


class RandomTiles(IterableDataset[tuple[Tensor, Target]]):
    """An endless stream of crops; item i depends on the seed and i alone, so a run can resume.

    Parameters
    ----------
    frames : list of LabelledFrame
        Drawn from evenly.
    crop : int
        Side of a tile, in pixels.
    spec : NormaliseSpec
        The stretch.
    seed, start : int
        Of the stream, and the first item.
    """

    def __init__(self, frames: list[LabelledFrame], crop: int, spec: NormaliseSpec, seed: int, start: int = 0) -> None:
        self.frames, self.crop, self.spec = frames, crop, spec
        self.seed, self.start = seed, start

    def __iter__(self):  # type: ignore[no-untyped-def]
        """Yield (tile (1, T, T), target) for ever."""
        item = self.start
        while True:
            rng = np.random.default_rng([self.seed, item])
            chosen = self.frames[rng.integers(len(self.frames))]
            tile, target = crop_tile(chosen, self.crop, self.spec, rng)
            yield turn(tile, target, int(rng.integers(4)), bool(rng.integers(2)))
            item += 1


def crop_tile(
    labelled: LabelledFrame, crop: int, spec: NormaliseSpec, rng: np.random.Generator
) -> tuple[Tensor, Target]:
    """Cut and normalise a random crop, with the truth inside it."""
    height, width = labelled.frame.shape
    x, y = int(rng.integers(0, width - crop + 1)), int(rng.integers(0, height - crop + 1))
    pixels = labelled.frame.pixels[y : y + crop, x : x + crop]
    window, phase = labelled.sky.window(x, y, crop)
    tile = Tile(pixels, window, phase, labelled.sky.mesh, (x, y), (x, y, x + crop, y + crop))
    normalised = normalise(*stack_tiles([tile]), tile.mesh, spec)[0]
    return normalised, crop_truth(labelled.boxes - np.array([x, y, x, y]), labelled.ignored, crop)


def crop_truth(boxes: Floats, ignored: np.ndarray, crop: int) -> Target:
    """Truth inside a crop: clipped boxes (N, 4); mostly hidden or faint sources become ignore regions (M, 4)."""
    clipped = np.clip(boxes, 0, crop)
    sides = clipped[:, 2:] - clipped[:, :2]
    inside = (sides > 0).all(axis=1)
    seen = sides.prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    positive = inside & ~ignored & (seen >= LEAST_SEEN) & (sides >= 1).all(axis=1)
    return {
        "boxes": torch.from_numpy(clipped[positive].astype(np.float32)),
        "labels": torch.ones(int(positive.sum()), dtype=torch.int64),
        "ignored": torch.from_numpy(clipped[inside & ~positive].astype(np.float32)),
    }


def turn(tile: Tensor, target: Target, quarters: int, flip: bool) -> tuple[Tensor, Target]:
    """Rotate a tile (1, T, T) by quarter turns, then flip it left to right, its boxes with it."""
    side = tile.shape[-1]
    tile = torch.rot90(tile, quarters, dims=(-2, -1))
    boxes = {name: target[name] for name in ("boxes", "ignored")}
    for name, box in boxes.items():
        for _ in range(quarters):  # counter-clockwise on the array: (x, y) -> (y, side - x)
            box = torch.stack([box[:, 1], side - box[:, 2], box[:, 3], side - box[:, 0]], dim=1)
        if flip:
            box = torch.stack([side - box[:, 2], box[:, 1], side - box[:, 0], box[:, 3]], dim=1)
        boxes[name] = box
    return (tile.flip(-1) if flip else tile).contiguous(), {**target, **boxes}


def collate(items: list[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
    """Stack tiles (B, 1, T, T); targets stay a list."""
    return torch.stack([tile for tile, _ in items]), [target for _, target in items]
