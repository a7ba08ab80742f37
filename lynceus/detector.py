"""Frame to detections: the whole pipeline, one stage a line."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lynceus.detections import Detections
from lynceus.finepass import FineSpec, enlarged, fine_scale
from lynceus.frame import Frame
from lynceus.judge import JudgeSpec, judge
from lynceus.measure import MeasureSpec
from lynceus.merge import SizePrior, Suppression, merge_tiles, steady_sizes
from lynceus.network import RawDetections
from lynceus.normalise import NormaliseSpec, normalise, stack_tiles
from lynceus.on_trails import OnTrail, leave_out
from lynceus.passes import merge_passes
from lynceus.precision import exactly
from lynceus.regions import none_smaller
from lynceus.sky import Sky, SkySpec, estimate_sky
from lynceus.spec import Spec
from lynceus.tiling import Tile, TileSpec, binned, count_tiles, cut_tiles
from lynceus.trails import Trail, TrailSpec, find_trails

P = ParamSpec("P")
T = TypeVar("T")


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
    fine : FineSpec or None
        When a frame is enlarged because its stars are hardly wider than its pixels; None for never.
    trails : TrailSpec or None
        Which trails are looked for, whose pieces are left out of the list; None for none.
    judge : JudgeSpec or None
        How scores become probabilities with the help of the frame; None for the network's own scores.
    """

    sky: SkySpec = SkySpec()
    normalise: NormaliseSpec = NormaliseSpec()
    tile: TileSpec = TileSpec()
    merge: Suppression = Suppression(by="centre", threshold=0.25)
    sizes: SizePrior = SizePrior()
    measure: MeasureSpec = MeasureSpec()
    min_score: float = Field(0.5, ge=0, le=1)
    coarse: int = Field(0, ge=0)
    fine: FineSpec | None = None
    trails: TrailSpec | None = None
    judge: JudgeSpec | None = None


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
        At the frame's own scale, or enlarged by `scale`.
    coarse : list of Tile
        Of the binned frame; empty without a coarse pass.
    frame : Frame
        What was cut.
    scale : int
        Pixels of `tiles` on a side for each of the frame.
    search : Future or None
        For trails, which goes on while the network looks at the tiles; None where they are not looked for.
    """

    sky: Sky
    tiles: list[Tile]
    coarse: list[Tile]
    frame: Frame
    scale: int = 1
    search: Future[list[Trail]] | None = None

    @property
    def trails(self) -> list[Trail]:
        """On the frame; waits until they are found."""
        return self.search.result() if self.search is not None else []

    @property
    def all_tiles(self) -> list[Tile]:
        """What the network must look at, in the order `Detector.join` expects."""
        return [*self.tiles, *self.coarse]


@dataclass(frozen=True, eq=False)
class Joined:
    """What was found in a frame, and what was left out of it: the pieces of trails."""

    detections: Detections
    on_trails: tuple[OnTrail, ...] = ()


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

    def revised(self, **changes: object) -> "Detector":
        """The same detector with some fields of its specification changed."""
        spec = self.spec.model_copy(update=changes)
        return Detector(self.network, spec, self.device, self.workers)

    def warm_up(self) -> None:
        """Look at one tile of noise, so that the first frame does not pay for the first call."""
        size = self.spec.tile.size
        self.detect(Frame(np.random.default_rng(0).normal(1000, 10, (size, size)).astype(np.float32)))

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
        """Estimate the sky, cut the tiles and begin to look for trails; the coarse pass is made ready aside."""
        spec = self.spec
        coarse = _aside(self._coarse_tiles, frame)
        sky = estimate_sky(frame, spec.sky)
        search = _aside(find_trails, frame, sky, spec.trails) if spec.trails else None
        scale = fine_scale(frame, spec.fine, spec.sky, spec.measure) if spec.fine else 1
        tiles = cut_tiles(*enlarged(frame, sky, scale), spec.tile)
        return Cut(sky, tiles, coarse.result(), frame, scale, search)

    def least_tiles(self, shape: tuple[int, int]) -> int:
        """How many tiles a frame of this shape (H, W) is cut into, before it is cut; more only if it is enlarged."""
        coarse = tuple(length // self.spec.coarse for length in shape) if self._wants_coarse(shape) else ()
        return count_tiles(shape, self.spec.tile) + (count_tiles(coarse, self.spec.tile) if coarse else 0)

    def _wants_coarse(self, shape: tuple[int, int]) -> bool:
        return self.spec.coarse > 0 and max(shape) >= 2 * self.spec.coarse * self.spec.tile.overlap

    def _coarse_tiles(self, frame: Frame) -> list[Tile]:
        if not self._wants_coarse(frame.shape):
            return []
        small = binned(frame, self.spec.coarse)
        tiles = cut_tiles(small, estimate_sky(small, self.spec.sky), self.spec.tile)
        return [replace(tile, least_side=self.spec.tile.overlap / self.spec.coarse) for tile in tiles]

    def run(self, tiles: Sequence[Tile]) -> list[Found]:
        """Look at tiles, `batch` at a time on each worker; one result a tile, in order."""
        kinds = [list(alike) for _, alike in groupby(tiles, attrgetter("least_side"))]
        batches = [kind[start : start + self.batch] for kind in kinds for start in range(0, len(kind), self.batch)]
        if self.workers == 1:
            return [found for batch in batches for found in self.infer(batch)]
        with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return [found for batch in pool.map(self.infer, batches) for found in batch]

    def infer(self, tiles: Sequence[Tile]) -> list[Found]:
        """Look at one batch of tiles of one size and one pass, in this thread."""
        least = tiles[0].least_side
        with torch.inference_mode(), exactly(least > 0), none_smaller(least):
            pixels, window, phase = (self._sent(part) for part in stack_tiles(tiles))
            normalised = normalise(pixels, window, phase, tiles[0].mesh, self.spec.normalise)
            seen = normalised.flatten(1).any(dim=1).tolist()  # a tile all at the sky's level, or masked, is empty
            raw = self.network(normalised if all(seen) else normalised[seen]) if any(seen) else ()
            found = iter(_to_found(raw))
            return [next(found) if some else Found(Detections.empty()) for some in seen]

    def _sent(self, part: Tensor) -> Tensor:
        """The same on the device; from pinned memory a GPU fetches it while this thread goes on."""
        return part.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else part

    def join(self, cut: Cut, found: Sequence[Found]) -> Detections:
        """Merge what was found in the tiles of a cut into one list."""
        return self.joined(cut, found).detections

    def joined(self, cut: Cut, found: Sequence[Found]) -> Joined:
        """Merge what was found in the tiles of a cut, judge it, and tell the pieces of trails from it."""
        merged = self._merged(cut, found)
        if self.spec.judge is not None:
            merged = judge(cut.frame, cut.sky, merged, self.spec.judge, self.spec.measure.box_scale)
        return Joined(*leave_out(merged, cut.trails, cut.frame, cut.sky))

    def _merged(self, cut: Cut, found: Sequence[Found]) -> Detections:
        """One list of what was found at both scales."""
        lists = [one.detections for one in found]
        margin, native = self.spec.tile.margin, len(cut.tiles)
        merged = merge_tiles(lists[:native], cut.tiles, self.spec.merge, margin).moved(0, 0, 1 / cut.scale)
        fine = steady_sizes(merged, self.spec.sizes)
        if not cut.coarse:
            return fine
        coarse = merge_tiles(lists[native:], cut.coarse, self.spec.merge, margin).moved(0, 0, self.spec.coarse)
        return merge_passes(fine, coarse, cut.frame.shape, self.spec.tile.overlap)


def _aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Do something in a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work, *args, **kwargs)
    pool.shutdown(wait=False)
    return future


def _to_found(raw: Sequence[RawDetections]) -> list[Found]:
    """The lists of all tiles, in one copy from the device."""
    if not raw:
        return []
    columns = [(one.boxes.float(), one.scores.float()[:, None], one.labels.float()[:, None]) for one in raw]
    rows = torch.cat([torch.cat(parts, dim=1) for parts in columns]).cpu().numpy()
    ends = np.cumsum([len(one.boxes) for one in raw])
    return [
        Found(Detections(part[:, :4].copy(), part[:, 4].copy(), part[:, 5].astype(np.int64)), one.capped)
        for part, one in zip(np.split(rows, ends[:-1]), raw, strict=True)
    ]
