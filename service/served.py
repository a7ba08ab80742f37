"""A version being served: loaded, verified, warmed up, tried out, and the names it answers to."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from lynceus.bundle import Bundle
from lynceus.catalogue import ModelInfo
from lynceus.detector import Detector
from lynceus.errors import BundleError
from lynceus.frame import Frame
from service.versions import STABLE

TRIAL_SIDE, TRIAL_STARS, TRIAL_FWHM = 320, 16, 4.0  # pixels, stars on a grid, pixels
TRIAL_SKY, TRIAL_NOISE, TRIAL_PEAK = 1000.0, 10.0, 2000.0  # ADU
TRIAL_SHARE = 0.75  # of the stars that a version must find; as many false ones are too many


@dataclass(frozen=True, eq=False)
class Served:
    """A bundle and the track it is served for; a request keeps the one it began with to its end."""

    bundle: Bundle
    track: str = STABLE

    @property
    def ref(self) -> str:
        """`name/version`."""
        return f"{self.bundle.manifest.name}/{self.bundle.manifest.version}"

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return self.bundle.manifest.weights_sha256

    @property
    def detector(self) -> Detector:
        """What runs."""
        return self.bundle.detector

    @property
    def info(self) -> ModelInfo:
        """What an answer says of it."""
        manifest = self.bundle.manifest
        return ModelInfo(manifest.name, manifest.version, self.track, self.sha256, manifest.network.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """What a request may call it: its track, its version, or `name/version`."""
        return self.track, self.bundle.manifest.version, self.ref

    def described(self) -> dict[str, Any]:
        """What `/models` says of it, besides its tracks."""
        manifest = self.bundle.manifest
        return {
            "name": manifest.name,
            "version": manifest.version,
            "sha256": self.sha256,
            "classes": list(manifest.network.classes),
            "min_score": manifest.detector.min_score,
            "scores": manifest.scores,
        }


def tried(bundle: Bundle) -> Bundle:
    """A version that was loaded, once it is warmed up and tried out.

    Raises
    ------
    BundleError
        If it does not find the stars of the built-in frame.
    """
    bundle.detector.warm_up()
    try_out(bundle)
    return bundle


def try_out(bundle: Bundle) -> None:
    """Let a version find the plain, bright stars of the built-in frame.

    Raises
    ------
    BundleError
        If it misses many, or finds many more than there are: such weights must not be served.
    """
    frame, stars = trial_frame()
    found = bundle.detector.detect(frame)
    places = np.stack(found[found.scores >= bundle.detector.spec.min_score].centres, axis=1)
    reached = cKDTree(places).query(stars)[0] < TRIAL_FWHM / 2 if len(places) else np.zeros(len(stars), bool)
    hit, extra = int(reached.sum()), len(places) - int(reached.sum())
    if hit < TRIAL_SHARE * len(stars) or extra > TRIAL_SHARE * len(stars):
        manifest = bundle.manifest
        raise BundleError(
            f"{manifest.name}/{manifest.version} finds {hit} of the {len(stars)} stars of the built-in frame, "
            f"and {extra} more"
        )


@cache
def trial_frame() -> tuple[Frame, np.ndarray[Any, np.dtype[np.float64]]]:
    """A frame of bright stars on a jittered grid, and where they are: 0-based `x, y`, shape (N, 2), in pixels."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(TRIAL_SKY, TRIAL_NOISE, (TRIAL_SIDE, TRIAL_SIDE))
    side = round(TRIAL_STARS**0.5)
    grid = (np.stack(np.meshgrid(*[np.arange(side) + 0.5] * 2), axis=-1).reshape(-1, 2)) * TRIAL_SIDE / side
    stars = grid + rng.uniform(-10, 10, grid.shape)
    rows, columns = np.indices(pixels.shape)
    for x, y in stars:
        pixels += TRIAL_PEAK * np.exp(-4 * np.log(2) * ((columns - x) ** 2 + (rows - y) ** 2) / TRIAL_FWHM**2)
    return Frame(pixels.astype(np.float32)), stars
