"""Tiles to train on: random crops of simulated frames, turned and flipped, with their truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lynceus.detections import Floats
from lynceus.frame import Frame, read_frame
from lynceus.normalise import NormaliseSpec, normalise, stack_tiles
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.tiling import Tile
from training.fitting.augment import AugmentSpec, Target, augment, crop_truth
from training.scenes.artefacts import trail_mask

Item = tuple[Tensor, Target]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame with its truth: boxes (N, 4) in edge coordinates, and which of them take no loss.

    `hidden` (H, W) marks the pixels that take none either, those of trails; None where there are none.
    """

    frame: Frame
    sky: Sky
    boxes: Floats
    ignored: Bools
    truth: Table
    hidden: Bools | None = None

    def labels(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """The class of each source from 1, (N,); 0 where it is none of `classes`; one class takes them all."""
        if len(classes) == 1:
            return np.ones(len(self.boxes), np.int64)
        number = {name: index for index, name in enumerate(classes, start=1)}
        return np.array([number.get(str(kind), 0) for kind in self.truth["kind"]], np.int64)


def read_labelled(path: Path, sky: SkySpec) -> LabelledFrame:
    """Read `00000.fits` and the truth `00000.ecsv` beside it."""
    frame = read_frame(path.read_bytes())
    truth = Table.read(path.with_suffix(".ecsv"), format="ascii.ecsv")
    boxes = np.stack([np.asarray(truth[edge], float) for edge in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    trails = truth.meta.get("trails")
    hidden = trail_mask(trails, frame.shape) if trails else None
    return LabelledFrame(frame, estimate_sky(frame, sky), boxes, np.asarray(truth["ignored"], bool), truth, hidden)


class RandomTiles(Dataset[Item]):
    """An endless list of crops; item i depends on the seed and i alone, so a run can resume.

    Parameters
    ----------
    frames : list of LabelledFrame
        Drawn from evenly.
    crop : int
        Side of a tile, in pixels.
    stretch : NormaliseSpec
        How counts become network input.
    varied : AugmentSpec
        How tiles are varied.
    classes : sequence of str
        Of the network.
    seed : int
        Of the list.
    """

    def __init__(
        self,
        frames: list[LabelledFrame],
        crop: int,
        stretch: NormaliseSpec,
        varied: AugmentSpec,
        classes: Sequence[str],
        seed: int,
    ) -> None:
        self.frames, self.crop, self.stretch, self.varied = frames, crop, stretch, varied
        self.classes, self.seed = classes, seed

    def __getitem__(self, item: int) -> Item:
        """Tile (C, T, T) and its target."""
        rng = np.random.default_rng([self.seed, item])
        chosen = self.frames[rng.integers(len(self.frames))]
        height, width = chosen.frame.shape
        x, y = int(rng.integers(0, width - self.crop + 1)), int(rng.integers(0, height - self.crop + 1))
        tile, target = crop_tile(chosen, x, y, self.crop, self.stretch, self.classes)
        return augment(tile, target, self.varied, self.stretch, rng)


def grid_tiles(
    frames: Sequence[LabelledFrame], crop: int, stretch: NormaliseSpec, classes: Sequence[str]
) -> Iterator[Item]:
    """The frames in tiles side by side, not varied: what a network is validated on."""
    for labelled in frames:
        height, width = labelled.frame.shape
        for y in range(0, height - crop + 1, crop):
            for x in range(0, width - crop + 1, crop):
                yield crop_tile(labelled, x, y, crop, stretch, classes)


def crop_tile(
    labelled: LabelledFrame, x: int, y: int, crop: int, stretch: NormaliseSpec, classes: Sequence[str]
) -> Item:
    """Cut and normalise the crop whose first pixel is (x, y), with the truth inside it."""
    here = np.s_[y : y + crop, x : x + crop]
    window, phase = labelled.sky.window(x, y, crop)
    tile = Tile(labelled.frame.pixels[here], window, phase, labelled.sky.mesh, (x, y), (x, y, x + crop, y + crop))
    normalised = normalise(*stack_tiles([tile]), tile.mesh, stretch)[0]
    labels = labelled.labels(classes)
    ignored = labelled.ignored | (labels == 0)
    boxes = torch.from_numpy(labelled.boxes - np.array([x, y, x, y]))
    target = crop_truth(boxes[~ignored], boxes[ignored], torch.from_numpy(labels[~ignored]), crop)
    if labelled.hidden is not None and labelled.hidden[here].any():
        target["hidden"] = torch.from_numpy(labelled.hidden[here].copy())
    return normalised, target


def collate(items: Sequence[Item]) -> tuple[Tensor, list[Target]]:
    """Stack tiles (B, C, T, T); targets stay a list."""
    return torch.stack([tile for tile, _ in items]), [target for _, target in items]
