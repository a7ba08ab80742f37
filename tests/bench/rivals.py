"""What else finds sources in a frame: torchvision's network as it comes and as it is best, `sep`, SExtractor."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import sep
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2

from lynceus.frame import Frame
from lynceus.sky import SkySpec, estimate_sky
from lynceus.tiling import TileSpec, cut_tiles
from tests.bench.rounds import Contender
from training.scoring.source_extractor import COLUMNS, Extractor, SourceExtractorSettings, program

TILES = 2  # that torchvision's networks look at, for all of a frame: the whole of it would take minutes
NAIVE = f"torchvision R50-v2, as it comes ({TILES} tiles, scaled)"
TUNED = f"torchvision R50-v2, tuned ({TILES} tiles, scaled)"
SEP, SEP_MAP, SEXTRACTOR = "sep, one noise for the frame", "sep, with its map of the noise", "SExtractor"
THRESHOLD = 1.5  # standard deviations, the default of SExtractor


@contextmanager
def rivals(frame: Frame, device: str, threads: int) -> Iterator[dict[str, Contender]]:
    """Contenders that find the sources of a frame that is decoded already; SExtractor only where it is installed."""
    pixels = frame.pixels
    contenders = {
        NAIVE: torchvision_loop(frame, device, threads, tuned=False),
        TUNED: torchvision_loop(frame, device, threads, tuned=True),
        SEP: Contender(lambda: run_sep(pixels, noise_map=False)),
        SEP_MAP: Contender(lambda: run_sep(pixels, noise_map=True)),
    }
    if program() is None:
        yield contenders
        return
    with Extractor(frame, fwhm=3.0) as extractor:  # the file is written in the round that does not count
        settings = SourceExtractorSettings()
        yield contenders | {SEXTRACTOR: Contender(lambda: extractor.run(settings, COLUMNS))}


def torchvision_loop(frame: Frame, device: str, threads: int, tuned: bool) -> Contender:
    """Tile by tile, eager: with torchvision's defaults, or at native size with 300 proposals and NMS at 0.5."""
    tiles = cut_tiles(frame, estimate_sky(frame, SkySpec()), TileSpec())
    chosen = [torch.from_numpy(np.nan_to_num(tile.pixels)).expand(3, -1, -1) for tile in tiles[:TILES]]
    size = {"min_size": TileSpec().size, "max_size": TileSpec().size}
    options = {**size, "rpn_post_nms_top_n_test": 300, "rpn_nms_thresh": 0.5} if tuned else {}
    network = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **options).eval().to(device)
    return Contender(lambda: _look(network, chosen, device, threads), scale=len(tiles) / len(chosen), rounds=3)


def _look(network: torch.nn.Module, tiles: list[Tensor], device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        for tile in tiles:
            network([tile.to(device)])[0]["boxes"].cpu()


def run_sep(pixels: np.ndarray, noise_map: bool) -> None:
    """Background, threshold, deblend, in one thread."""
    background = sep.Background(pixels)
    sep.set_extract_pixstack(5_000_000)
    sep.set_sub_object_limit(20_000)
    sep.extract(pixels - background.back(), THRESHOLD, err=background.rms() if noise_map else background.globalrms)
