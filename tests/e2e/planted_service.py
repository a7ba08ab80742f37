"""Real servers around matched filters with planted virtues and faults: `planted_service stable=3000 blind=3001`.

One process, because the import of torch is most of what a server costs.
"""

import asyncio
import hashlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from uvicorn import Config, Server

from lynceus.bundle import Bundle, Manifest, Provenance
from lynceus.detector import Detector, DetectorSpec
from lynceus.network import NetworkSpec, RawDetections
from lynceus.tiling import TileSpec
from service.app import create_app
from service.settings import Settings

SOFTENING = 2.0  # of the normalised tiles it is shown
FWHM = 3.0  # of the stars it looks for, pixels
SIDE = 7.5  # of its boxes, pixels: 2.5 FWHM
PEAK = 7  # pixels on a side in which a peak is the only one


@dataclass(frozen=True)
class Filter:
    """Finds what a matched filter of one width sees.

    Attributes
    ----------
    limit : float
        Least signal to noise.
    shift : float
        Of its boxes along x, in pixels.
    pause : float
        Seconds that a tile takes longer than it must.
    noise : float
        Of its own, in standard deviations of the filtered sky: what another seed makes of the same recipe.
    """

    limit: float = 6.5
    shift: float = 0.0
    pause: float = 0.05
    noise: float = 0.0

    def __call__(self, tiles: Tensor) -> Sequence[RawDetections]:
        return [self.look(tile[0]) for tile in tiles]

    def look(self, tile: Tensor) -> RawDetections:
        time.sleep(self.pause)
        snr = self.filtered(SOFTENING * torch.sinh(tile))
        highest = torch.nn.functional.max_pool2d(snr[None, None], PEAK, stride=1, padding=PEAK // 2)[0, 0]
        inside = torch.zeros_like(tile, dtype=torch.bool)
        inside[1:-1, 1:-1] = True
        rows, columns = torch.where((snr == highest) & (snr > self.limit) & inside)
        x = columns + 0.5 + self.shift + _vertex(*(snr[rows, columns + step] for step in (-1, 0, 1)))
        y = rows + 0.5 + _vertex(*(snr[rows + step, columns] for step in (-1, 0, 1)))
        centres = torch.stack([x, y, x, y], dim=1)
        boxes = centres + torch.tensor([-SIDE, -SIDE, SIDE, SIDE]) / 2
        scores = 1 - 1 / (1 + snr[rows, columns])
        order = scores.argsort(descending=True)
        return RawDetections(boxes[order], scores[order], torch.zeros(len(order), dtype=torch.int64), capped=False)

    def filtered(self, deviations: Tensor) -> Tensor:
        """Signal to noise of a matched filter at every pixel."""
        offsets = torch.arange(-6.0, 7.0)
        profile = torch.exp(-4 * torch.log(torch.tensor(2.0)) * offsets**2 / FWHM**2)
        kernel = profile[:, None] * profile[None]
        kernel /= (kernel**2).sum().sqrt()
        snr = torch.nn.functional.conv2d(deviations[None, None], kernel[None, None], padding="same")[0, 0]
        seed = torch.Generator().manual_seed(int(deviations.abs().sum().item() * 1e3) % 2**31)
        return snr + self.noise * torch.randn(snr.shape, generator=seed)


def _vertex(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    """Where between its neighbours a parabola has its top, -0.5 to 0.5 px."""
    bend = before - 2 * peak + after
    return ((before - after) / (2 * bend.clamp(max=-1e-6))).clamp(-0.5, 0.5)


STABLE = Filter()
PLANTED = {
    "stable": STABLE,
    "other_seed": replace(STABLE, noise=0.1),
    "better": replace(STABLE, limit=5.0),
    "shifted": replace(STABLE, shift=1.5),
    "blind": replace(STABLE, limit=11.0),
    "slow": replace(STABLE, pause=0.3),
}


def planted_bundle(name: str) -> Bundle:
    """A version with the papers of a real one."""
    spec = DetectorSpec(tile=TileSpec(size=384, overlap=64))
    manifest = Manifest(
        name="planted",
        version=f"1.{list(PLANTED).index(name)}.0",
        network=NetworkSpec(),
        detector=spec,
        weights_sha256=hashlib.sha256(name.encode()).hexdigest(),
        provenance=Provenance(data_fingerprint="none", seed=0, code_version="test"),
    )
    return Bundle(Detector(PLANTED[name], spec), manifest)


async def serve(ports: dict[str, int]) -> None:
    """Every version asked for on a port of its own, in one process, until it is told to stop."""
    settings = Settings()
    servers = [
        Unsignalled(
            Config(create_app(settings, planted_bundle(name)), host="127.0.0.1", port=port, log_level="warning")
        )
        for name, port in ports.items()
    ]

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await asyncio.gather(*(server.serve() for server in servers))


class Unsignalled(Server):
    """Leaves signals to whom runs several."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


if __name__ == "__main__":
    asyncio.run(serve({name: int(port) for name, port in (argument.split("=") for argument in sys.argv[1:])}))
