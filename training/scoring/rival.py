"""The rival: `sep`, SExtractor's algorithm as a library, at its best settings."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, TypeVar

import numpy as np
import sep
from numpy.typing import NDArray

from lynceus.detections import Detections, Floats, centre_to_fits
from lynceus.errors import CatalogueError
from lynceus.frame import Frame
from lynceus.matching import Counts, count
from lynceus.measure import MeasureSpec
from lynceus.scoring import BOX_SCALE
from lynceus.spec import Spec
from lynceus.tables import Catalogue
from lynceus.truth import listed_detections
from training.scoring.pooling import fainter_ignored, match_by_centre, sides
from training.tiling.exposures import LabelledExposure

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
DEFAULT_FILTER = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)
NO_DEBLENDING = 1.0
HALF_SURE = 10.0  # the signal to noise that gets a score of 0.5
Settings = TypeVar("Settings", bound=Spec)
log = logging.getLogger(__name__)


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


def find(exposure: LabelledExposure, settings: RivalSettings, measure: MeasureSpec) -> Detections:
    """What `sep` finds in an exposure, with boxes by the bundle's rule.

    Parameters
    ----------
    exposure : LabelledExposure
        Masked pixels of its frame are left out; its truth tells the seeing.
    settings : RivalSettings
        How.
    measure : MeasureSpec
        The box rule: the FWHM is that of the object's second moments.

    Returns
    -------
    Detections
        Scores rise with the signal to noise; none at all where `sep` fails.
    """
    try:
        objects, noise = _objects(exposure.frame, settings, seeing_of(exposure))
    except Exception as error:  # sep has one error for all its limits
        log.warning("sep fails on %s: %s", exposure.key, error)
        return Detections.empty()
    spread = np.maximum(noise * np.sqrt(objects["npix"]), np.finfo(np.float32).tiny)
    columns = {
        "X_IMAGE": centre_to_fits(objects["x"]),
        "Y_IMAGE": centre_to_fits(objects["y"]),
        "A_IMAGE": np.asarray(objects["a"], float),
        "B_IMAGE": np.asarray(objects["b"], float),
        "THETA_IMAGE": np.degrees(objects["theta"]),
        "SCORE": as_scores(objects["flux"] / spread),
    }
    return listed_detections(Catalogue(columns, "ascii_head"), exposure.frame, measure, rule="bundle")


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
    objects, _ = _objects(frame, settings, fwhm)
    return np.stack([objects["x"], objects["y"]], axis=1), objects["flux"]


def _objects(frame: Frame, settings: RivalSettings, fwhm: float) -> tuple[NDArray[Any], float]:
    """What sep extracts, and the noise of the sky in ADU."""
    sep.set_extract_pixstack(2_000_000)
    sep.set_sub_object_limit(20_000)  # a trail and all it crosses is one object at a low threshold
    pixels, mask = np.nan_to_num(frame.pixels), frame.mask
    background = sep.Background(pixels, mask=mask, bw=64, bh=64, fw=3, fh=3)
    options = {
        "err": background.rms(),
        "mask": mask,
        "minarea": settings.least_area,
        "filter_kernel": {"none": None, "default": DEFAULT_FILTER, "matched": gaussian(fwhm)}[settings.convolution],
    }
    try:
        objects = sep.extract(pixels - background.back(), settings.threshold, **options)
    except Exception:  # a limit of its deblending; without, there are none
        options["deblend_cont"] = NO_DEBLENDING
        objects = sep.extract(pixels - background.back(), settings.threshold, **options)
    return objects, float(background.globalrms)


def gaussian(fwhm: float) -> Floats:
    """A Gaussian kernel of that FWHM, odd-sided, its sum 1."""
    reach = int(np.ceil(1.5 * fwhm))
    axis = np.arange(-reach, reach + 1) * FWHM_PER_SIGMA / fwhm
    kernel = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2))
    return np.asarray(kernel / kernel.sum(), np.float32)


def as_scores(snr: Floats) -> Floats:
    """Signal to noise as a score between 0 and 1, the same in every frame."""
    positive = np.clip(np.nan_to_num(snr), 0, None)
    return np.asarray(positive / (positive + HALF_SURE), float)


def seeing_of(exposure: LabelledExposure) -> float:
    """The median FWHM in the truth, by its boxes, in pixels: of the stars, where it names any."""
    truth = exposure.truth
    stars = np.array([kind == "star" for kind in truth.kinds or ()], bool)
    boxes = truth.boxes[stars] if stars.any() else truth.boxes
    return float(np.median(sides(boxes))) / BOX_SCALE if len(boxes) else BOX_SCALE


def tune(
    grid: Sequence[Settings],
    find: Callable[[LabelledExposure, Settings], Detections],
    exposures: Iterable[LabelledExposure],
    *,
    faintest: float | None = None,
) -> tuple[Settings, float]:
    """The settings with the highest F1 by centre, and that F1.

    Parameters
    ----------
    grid : sequence of settings
        All are tried on every frame.
    find : callable
        What is found in an exposure with some settings.
    exposures : iterable of LabelledExposure
        Read once, one at a time.
    faintest : float or None
        Sources below this signal to noise are ignored.
    """
    counts = [Counts(0, 0, 0)] * len(grid)
    for exposure in exposures:
        ignored = fainter_ignored(exposure.truth, faintest)
        for place, settings in enumerate(grid):
            try:
                match = match_by_centre(find(exposure, settings), exposure.truth, ignored)
            except CatalogueError as error:
                log.warning("%s cannot be scored: %s", exposure.key, error)
                continue
            counts[place] += count(match)
    best = max(range(len(grid)), key=lambda place: counts[place].f1)
    return grid[best], counts[best].f1
