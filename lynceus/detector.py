"""Frame to detections: the whole pipeline, one stage a line."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lynceus.detections import Detections
from lynceus.frame import Frame
from lynceus.measure import MeasureSpec
from lynceus.merge import SizePrior, Suppression, merge_passes, merge_tiles, steady_sizes
from lynceus.network import RawDetections
from lynceus.normalise import NormaliseSpec, normalise, stack_tiles
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.spec import Spec
from lynceus.tiling import Tile, TileSpec, binned, cut_tiles


class DetectorSpec(Spec):
    """Everything besides the network that shapes what is found.

    Attributes
    ----------
    sky, normalise, tile, merge, sizes, measure : Spec
        Of the stages of that name; `measure` holds the box rule.
    min_score : float
        Default threshold, chosen when the bundle was published.
    coarse : int
        Binning of a second pass for objects larger than the overlap; 0 for none.
    """

    sky: SkySpec = SkySpec()
    normalise: NormaliseSpec = NormaliseSpec()
    tile: TileSpec = TileSpec()
    merge: Suppression = Suppression(by="centre", threshold=0.25)
    sizes: SizePrior = SizePrior()
    measure: MeasureSpec = MeasureSpec()
    min_score: float = Field(0.5, ge=0, le=1)
    coarse: int = Field(0, ge=0)


@dataclass(frozen=True, eq=False)
class Found:
    """What the network found in one tile, in the tile's pixels; `capped` where a cap ended the list."""

    detections: Detections
    capped: bool = False


@dataclass(frozen=True, eq=False)
class Cut:
    """A frame made ready for the network.

    Attributes
    ----------
    sky : Sky
        Of the frame.
    tiles : list of Tile
        At the frame's own scale.
    coarse : list of Tile
        Of the binned frame; empty without a coarse pass.
    """

    sky: Sky
    tiles: list[Tile]
    coarse: list[Tile]

    @property
    def all_tiles(self) -> list[Tile]:
        """What the network must look at, in the order `Detector.join` expects."""
        return [*self.tiles, *self.coarse]


class TileNetwork(Protocol):
    """What a detector needs of a network; a test's fake or a compiled network stand in for `Network`."""

    def __call__(self, tiles: Tensor) -> Sequence[RawDetections]:
        """Normalised tiles (B, C, T, T) to one list each."""
        ...


class Detector:
    """A network with everything around it.

    Parameters
    ----------
    network : TileNetwork
        In evaluation mode, on `device`.
    spec : DetectorSpec
        The stages' parameters.
    device : torch.device or str
        Where the network runs.
    workers : int
        Tiles looked at side by side on a CPU, one thread each; a GPU takes one batch at a time.
    """

    def __init__(
        self, network: TileNetwork, spec: DetectorSpec, device: torch.device | str = "cpu", workers: int = 1
    ) -> None:
        self.network = network
        self.spec = spec
        self.device = torch.device(device)
        self.workers = workers if self.device.type == "cpu" else 1
        self.batch = 1 if self.device.type == "cpu" else 32  # on a CPU a batch is slower than its tiles one by one

    def detect(self, frame: Frame) -> Detections:
        """Find the sources in a frame.

        Parameters
        ----------
        frame : Frame
            Of any size.

        Returns
        -------
        Detections
            In the frame's pixels, by falling score; those under the default threshold are still there.
        """
        cut = self.cut(frame)
        found = self.run(cut.all_tiles)
        return self.join(cut, found)

    def cut(self, frame: Frame) -> Cut:
        """Estimate the sky and cut the tiles."""
        sky = estimate_sky(frame, self.spec.sky)
        tiles = cut_tiles(frame, sky, self.spec.tile)
        if not self.spec.coarse or max(frame.shape) < 2 * self.spec.coarse * self.spec.tile.overlap:
            return Cut(sky, tiles, [])
        small = binned(frame, self.spec.coarse)
        return Cut(sky, tiles, cut_tiles(small, estimate_sky(small, self.spec.sky), self.spec.tile))

    def run(self, tiles: Sequence[Tile]) -> list[Found]:
        """Look at tiles, `batch` at a time on each worker; one result a tile, in order."""
        batches = [tiles[start : start + self.batch] for start in range(0, len(tiles), self.batch)]
        if self.workers == 1:
            return [found for batch in batches for found in self.infer(batch)]
        with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [found for batch in pool.map(self.infer, batches) for found in batch]

    def infer(self, tiles: Sequence[Tile]) -> list[Found]:
        """Look at one batch of tiles of one size, in this thread."""
        with torch.inference_mode():
            pixels, window, phase = (part.to(self.device, non_blocking=True) for part in stack_tiles(tiles))
            normalised = normalise(pixels, window, phase, tiles[0].mesh, self.spec.normalise)
            seen = normalised.flatten(1).any(dim=1)  # a tile without one pixel off the sky, or all masked, is empty
            raw = iter(self.network(normalised[seen]) if seen.any() else ())
            return [_to_found(next(raw)) if some else Found(Detections.empty()) for some in seen.tolist()]

    def join(self, cut: Cut, found: Sequence[Found]) -> Detections:
        """Merge what was found in the tiles of a cut into one list."""
        lists = [one.detections for one in found]
        margin, native = self.spec.tile.margin, len(cut.tiles)
        fine = steady_sizes(merge_tiles(lists[:native], cut.tiles, self.spec.merge, margin), self.spec.sizes)
        if not cut.coarse:
            return fine
        coarse = merge_tiles(lists[native:], cut.coarse, self.spec.merge, margin).moved(0, 0, self.spec.coarse)
        sides = (coarse.boxes[:, 2:] - coarse.boxes[:, :2]).max(axis=1, initial=0)
        return merge_passes(fine, coarse[sides > self.spec.tile.overlap], self.spec.merge)


def _to_found(raw: RawDetections) -> Found:
    boxes, scores, labels = (part.cpu().numpy() for part in (raw.boxes.float(), raw.scores.float(), raw.labels))
    return Found(Detections(boxes, scores, labels.astype(np.int64)), raw.capped)
