"""Stand-ins at the seams: a network without weights, and the frames and tiles it is shown."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import torch
from astropy.io import fits
from numpy.typing import NDArray
from torch import Tensor

from lynceus.bundle import Bundle, Manifest, Provenance
from lynceus.detector import Detector, DetectorSpec
from lynceus.network import NetworkSpec, RawDetections
from lynceus.tiling import Tile, TileSpec

SKY, NOISE = 1000.0, 10.0  # ADU
SIDE = 8.0  # of every box, pixels
POISON = 1e30  # ADU: a pixel that makes the network raise
SLOW = 4e6  # ADU: a pixel that makes it take its time
CEILING = 13.5  # normalised: only a clipped pixel is brighter
BRIGHT = 12.0  # normalised: only SLOW and POISON are brighter
SMALL_TILES = DetectorSpec(tile=TileSpec(size=128, overlap=32))


@dataclass
class FixedNetwork:
    """Finds local maxima; its answer depends on nothing but the tile.

    Attributes
    ----------
    threshold : float
        Lowest peak, in normalised units; 2.3 is ten standard deviations.
    pause : float
        Seconds that a tile with a SLOW pixel takes.
    """

    threshold: float = 2.3
    pause: float = 1.5

    def __call__(self, tiles: Tensor) -> Sequence[RawDetections]:
        return [self.look(tile[0]) for tile in tiles]

    def look(self, tile: Tensor) -> RawDetections:
        peak = float(tile.max())
        if peak > CEILING:
            raise RuntimeError("poison")
        if peak > BRIGHT:
            time.sleep(self.pause)
        highest = torch.nn.functional.max_pool2d(tile[None, None], 7, stride=1, padding=3)[0, 0]
        rows, columns = torch.where((tile == highest) & (tile > self.threshold))
        centres = torch.stack([columns, rows, columns, rows], dim=1) + 0.5
        boxes = (centres + torch.tensor([-SIDE, -SIDE, SIDE, SIDE]) / 2).clamp(0, len(tile))
        scores = 1 - 1 / (1 + tile[rows, columns])
        order = scores.argsort(descending=True)
        return RawDetections(boxes[order], scores[order], torch.zeros(len(order), dtype=torch.int64), capped=False)


def fixed_bundle(spec: DetectorSpec = SMALL_TILES) -> Bundle:
    """A FixedNetwork with the papers of a real version."""
    manifest = Manifest(
        name="fixed",
        version="1.2.3",
        network=NetworkSpec(),
        detector=spec,
        weights_sha256="0" * 64,
        provenance=Provenance(data_fingerprint="none", seed=0, code_version="test"),
        scores={"map_50": 0.5},
    )
    return Bundle(Detector(FixedNetwork(), spec), manifest)


def star_field(shape: tuple[int, int], stars: Sequence[tuple[float, float]], seed: int = 0) -> NDArray[np.float32]:
    """Stars of 3 px FWHM and 5000 ADU at peak, at 0-based `x, y`, on a noisy sky."""
    pixels = np.random.default_rng(seed).normal(SKY, NOISE, shape)
    rows, columns = np.indices(shape)
    for x, y in stars:
        pixels += 5000 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (3 / 2.355) ** 2))
    return pixels.astype(np.float32)


def fits_bytes(*planes: NDArray[np.generic], **header: object) -> bytes:
    """A FITS file: the first plane in the primary HDU, the others in image extensions."""
    hdus = fits.HDUList([fits.PrimaryHDU(planes[0])] + [fits.ImageHDU(plane) for plane in planes[1:]])
    hdus[0].header.update(header)
    file = BytesIO()
    hdus.writeto(file)
    return file.getvalue()


def blank_tile(value: float = 0.0, size: int = 8) -> Tile:
    """A tile that a fake `infer` can recognise by its first pixel."""
    pixels = np.full((size, size), value, np.float32)
    window = np.ones((2, 5, 5), np.float32)
    return Tile(pixels, window, np.zeros(2, np.float32), 64, (0, 0), (-np.inf, -np.inf, np.inf, np.inf))


class NVMLError(Exception):
    """What pynvml raises."""


@dataclass
class FakeGpu:
    """One GPU as NVML tells of it: percent, bytes, degrees and milliwatts; None for what it does not support."""

    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    utilization: int | None = 80
    used: int = 6 * 1024**3
    total: int = 16 * 1024**3
    temperature: int | None = 61
    power: int | None = 150_500
    lost: bool = False


class FakeNvml:
    """The few functions of `pynvml` that the service calls; give it to `create_app(..., nvml=)`.

    Attributes
    ----------
    gpus : list of FakeGpu
        Change them as it runs; `lost` makes every call about that GPU fail.
    broken : bool
        No driver: every call fails.
    asked, open : int
        How often the GPUs were counted, and how many `nvmlInit` await their `nvmlShutdown`.
    """

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *gpus: FakeGpu, broken: bool = False) -> None:
        self.gpus = list(gpus)
        self.broken = broken
        self.asked = self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self._check(self.broken)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._check(not self.open)
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self.asked += 1
        self._check(self.broken or not self.open)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        return self._known(self.gpus[index])

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:  # noqa: N802
        return self._known(handle).uuid

    def nvmlDeviceGetUtilizationRates(self, handle: FakeGpu) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=self._supported(self._known(handle).utilization), memory=0)

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> SimpleNamespace:  # noqa: N802
        self._known(handle)
        return SimpleNamespace(used=handle.used, total=handle.total, free=handle.total - handle.used)

    def nvmlDeviceGetTemperature(self, handle: FakeGpu, sensor: int) -> int:  # noqa: N802
        return self._supported(self._known(handle).temperature)

    def nvmlDeviceGetPowerUsage(self, handle: FakeGpu) -> int:  # noqa: N802
        return self._supported(self._known(handle).power)

    def _known(self, gpu: FakeGpu) -> FakeGpu:
        self._check(self.broken or not self.open or gpu.lost)
        return gpu

    def _supported(self, value: int | None) -> int:
        if value is None:
            raise NVMLError("Not Supported")
        return value

    def _check(self, failed: bool) -> None:
        if failed:
            raise NVMLError("GPU is lost, or there is no driver")


def two_gpus() -> FakeNvml:
    """A busy GPU and an idle one."""
    return FakeNvml(FakeGpu(), FakeGpu("GPU-11111111-1111-1111-1111-111111111111", 0, 1024**3, power=25_000))
