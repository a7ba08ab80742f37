"""The rival: `sep`, SExtractor's algorithm as a library, at its best settings."""

from itertools import product

import numpy as np
import sep

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.spec import Spec

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
DEFAULT_FILTER = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)


class RivalSettings(Spec):
    """One way to run it: threshold in sigma, convolution ("none", "default", "matched"), least area in pixels."""

    threshold: float
    convolution: str
    least_area: int


GRID = [
    RivalSettings(threshold=threshold, convolution=convolution, least_area=area)
    for threshold, convolution, area in product(
        (1.0, 1.5, 2.0, 2.5, 3.0, 4.0), ("none", "default", "matched"), (1, 3, 5, 8)
    )
]


def extract(frame: Frame, settings: RivalSettings, fwhm: float) -> tuple[Floats, Floats]:
    """Positions (N, 2), 0-based centres, and fluxes (N,).

    Parameters
    ----------
    frame : Frame
        Masked pixels are left out.
    settings : RivalSettings
        How.
    fwhm : float
        The true seeing, in pixels, for the matched filter: more than it would know in real life.
    """
    sep.set_extract_pixstack(2_000_000)
    sep.set_sub_object_limit(20_000)  # a trail and all it crosses is one object at a low threshold
    pixels, mask = np.nan_to_num(frame.pixels), frame.mask
    background = sep.Background(pixels, mask=mask, bw=64, bh=64, fw=3, fh=3)
    kernel = {"none": None, "default": DEFAULT_FILTER, "matched": gaussian(fwhm)}[settings.convolution]
    objects = sep.extract(
        pixels - background.back(),
        settings.threshold,
        err=background.rms(),
        mask=mask,
        minarea=settings.least_area,
        filter_kernel=kernel,
    )
    return np.stack([objects["x"], objects["y"]], axis=1), objects["flux"]


def gaussian(fwhm: float) -> Floats:
    """A Gaussian kernel of that FWHM, odd-sided, its sum 1."""
    reach = int(np.ceil(1.5 * fwhm))
    axis = np.arange(-reach, reach + 1) * FWHM_PER_SIGMA / fwhm
    kernel = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2))
    return np.asarray(kernel / kernel.sum(), np.float32)
