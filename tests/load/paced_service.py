"""The real server around a network of a known speed: `bentoml serve tests.load.paced_service:Lynceus`.

It sleeps for a while a tile, so that what it can do does not depend on the machine.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lynceus.bundle import Bundle
from lynceus.detector import Detector
from lynceus.network import RawDetections
from service.app import create_app
from service.hosting import hosted
from service.settings import Settings
from service.start import check_settings
from tests.fakes import SMALL_TILES, FixedNetwork, fixed_bundle
from tests.load import TILE_SECONDS


@dataclass
class PacedNetwork(FixedNetwork):
    """A FixedNetwork that takes its time for every tile."""

    tile_seconds: float = 0.05

    def __call__(self, tiles: Tensor) -> Sequence[RawDetections]:
        time.sleep(self.tile_seconds * len(tiles))
        return super().__call__(tiles)


network = PacedNetwork(tile_seconds=float(os.environ.get(TILE_SECONDS, "0.05")))
settings = Settings()
bundle = Bundle(Detector(network, SMALL_TILES), fixed_bundle().manifest)
Lynceus = hosted(create_app(settings, bundle), settings, check_settings)
