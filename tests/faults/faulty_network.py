"""A network with a fault: `slow`, every tile takes a while; `stuck`, one with a SLOW pixel never ends; `memory`, the
device holds `FITS` tiles, and none with a SLOW pixel.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lynceus.bundle import Bundle
from lynceus.detector import Detector
from lynceus.network import RawDetections
from tests.fakes import BRIGHT, CEILING, SMALL_TILES, FixedNetwork, fixed_bundle

FITS = 2  # tiles
WHILE, FOR_EVER = 0.4, 3600.0  # seconds


@dataclass
class FaultyNetwork(FixedNetwork):
    """A FixedNetwork with a fault."""

    fault: str = ""

    def __call__(self, tiles: Tensor) -> Sequence[RawDetections]:
        slow = any(BRIGHT < float(tile.max()) <= CEILING for tile in tiles)
        if self.fault == "memory" and (slow or len(tiles) > FITS):
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(tiles)} tiles")
        if self.fault == "slow":
            time.sleep(WHILE)
        if self.fault == "stuck" and slow:
            time.sleep(FOR_EVER)
        return super().__call__(tiles)


def faulty_bundle(fault: str) -> Bundle:
    """A FaultyNetwork with the papers of a real version."""
    return Bundle(Detector(FaultyNetwork(fault=fault), SMALL_TILES), fixed_bundle().manifest)
