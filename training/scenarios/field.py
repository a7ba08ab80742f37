"""A deep field in nine bands: objects found in five of them are a truth whose noise the others do not share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sep
from astropy.table import Table
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from lynceus.detections import Floats
from lynceus.figures import Figures
from lynceus.frame import Frame, read_frame
from lynceus.matching import match_centres
from lynceus.sky import SkySpec, estimate_sky
from lynceus.sources import FWHM_PER_SIGMA
from training.errors import TrainingError
from training.scenarios.listings import Listing, Place

FIELD, TRUTH = "frames/kids_viking", "catalogues/kids_viking_crossband_giZYJ_sep_1.5sigma.ecsv"
STACKED = ("g", "i", "Z", "Y", "J")
THRESHOLD, LEAST_AREA = 1.5, 5  # how the truth was made of the stack
WIDEST = 2.5  # FWHM of point sources: the isophote of a bright star or a galaxy is wider than it matters
SURE = 20.0  # signal to noise at which nobody doubts a detection
SEEN = 2.0  # standard deviations of a filtered frame
BLANK = 3.0  # FWHM from any object, for places where there is nothing


class TruthLimits(Figures):
    """What a truth that was measured itself allows.

    Attributes
    ----------
    objects : int
        In the truth.
    upside_down : int
        That the same recipe finds in the same stack upside down, with the noise of the whole stack: about so many of
        the objects are noise.
    upside_down_locally : int
        The same with noise measured from place to place, which the dips around bright sources make too many.
    sure : int
        Detections of a signal to noise over `SURE` in the frame that is judged.
    sure_matched : float
        The share of these with an object: no list can be much more reliable than this.
    unseen : float
        The share of the objects without light in the frame that is judged, by as much as blank places have: no list can
        be more complete than the rest.
    chance : float
        The share of random places within the radius of an object.
    """

    objects: int
    upside_down: int
    upside_down_locally: int
    sure: int
    sure_matched: float | None
    unseen: float
    chance: float


@dataclass(frozen=True, eq=False)
class Field:
    """The field of one band.

    Attributes
    ----------
    frame : Frame
        Of the band, in units of its noise.
    fwhm : float
        The seeing, in pixels.
    place : Place
        The objects, each with the radius within which a detection is it.
    """

    frame: Frame
    fwhm: float
    place: Place


def read_band(data: Path, band: str) -> Frame:
    """A frame of the field.

    Raises
    ------
    TrainingError
        If it is absent.
    """
    path = data / FIELD / f"{band}.fits"
    if not path.exists():
        raise TrainingError(f"there is no frame {path}")
    return read_frame(path.read_bytes())


def in_noise(frame: Frame) -> Frame:
    """The frame in units of its noise: counts of 1e-12 overwhelm a program that prints four digits."""
    sky = estimate_sky(frame, SkySpec())
    unit = float(np.median(sky.noise))
    return Frame((frame.pixels / np.float64(unit)).astype(np.float32))


def crossband_place(data: Path, shape: tuple[int, int], fwhm: float) -> Place:
    """The objects of the truth; each takes a detection within its own FWHM, at least the seeing.

    Parameters
    ----------
    data : Path
        Folder of the real frames.
    shape : (int, int)
        Height and width.
    fwhm : float
        The seeing, in pixels.
    """
    table = Table.read(data / TRUTH, format="ascii.ecsv")
    own = FWHM_PER_SIGMA * np.sqrt(np.asarray(table["a"], float) * np.asarray(table["b"], float))
    places = np.stack([np.asarray(table["x"], float), np.asarray(table["y"], float)], axis=1)
    return Place(places, np.full(len(table), np.nan), np.clip(own, fwhm, WIDEST * fwhm), shape)


def stack_of(frames: Sequence[Frame]) -> Floats:
    """The sum of frames, each over its sky and in units of its noise, (H, W)."""
    total = np.zeros(frames[0].shape, np.float32)
    for frame in frames:
        background = sep.Background(np.nan_to_num(frame.pixels), mask=frame.mask)
        total += (np.nan_to_num(frame.pixels) - background.back()) / background.globalrms
    return total


def extracted(stack: Floats) -> tuple[int, int]:
    """How many objects the truth's recipe finds in a stack, with the noise of the whole and with that of each place."""
    background = sep.Background(stack.astype(np.float32))
    sep.set_extract_pixstack(3_000_000)
    over = np.ascontiguousarray(stack - background.back(), np.float32)
    counts = [
        len(sep.extract(over, THRESHOLD, err=noise, minarea=LEAST_AREA))
        for noise in (background.globalrms, background.rms())
    ]
    return counts[0], counts[1]


def limits_of(field: Field, sure: Listing, stack: Floats | None, seed: int = 1) -> TruthLimits:
    """What the truth allows in the frame that is judged.

    Parameters
    ----------
    field : Field
        The frame and the truth.
    sure : Listing
        Detections in the frame that nobody doubts.
    stack : ndarray, shape (H, W), or None
        That the truth was found on.
    seed : int
        Of the random places.
    """
    place, rng = field.place, np.random.default_rng(seed)
    upside_down = extracted(-stack) if stack is not None else (0, 0)
    return TruthLimits(
        objects=len(place),
        upside_down=upside_down[0],
        upside_down_locally=upside_down[1],
        sure=len(sure),
        sure_matched=sure_share(sure, place),
        unseen=1 - lit_share(field, place.positions, rng),
        chance=_chance(place, rng),
    )


def sure_share(sure: Listing, place: Place) -> float | None:
    """The share of some detections that have an object; None of no detections."""
    match = match_centres(sure.positions, sure.scores, place.positions, place.fwhm, place.aside)
    return float(match.right.mean()) if len(sure) else None


def lit_share(field: Field, places: Floats, rng: np.random.Generator) -> float:
    """The share of places x, y (N, 2) at which the frame has light of its own.

    Notes
    -----
    A matched filter is over `SEEN` at a share of them, and at a share of blank places far from every object; of those
    lit, half of the excess is above if it is of no light, so that the excess over the rest is a lower bound.
    """
    sky = estimate_sky(field.frame, SkySpec())
    level, noise = sky.upsampled()
    significance = np.nan_to_num((field.frame.pixels - level) / noise)
    filtered = gaussian_filter(significance, field.fwhm / FWHM_PER_SIGMA)
    blank = blank_places(field.place, field.fwhm, rng)
    empty = _at(filtered, blank)
    middle = float(np.median(empty))
    spread = 1.4826 * float(np.median(np.abs(empty - middle)))
    here, nowhere = (
        float(((_at(filtered, some) - middle) / spread > SEEN).mean()) if len(some) else 0.0 for some in (places, blank)
    )
    return float(max(here - nowhere, 0.0) / max(1 - nowhere, 1e-9))


def blank_places(place: Place, fwhm: float, rng: np.random.Generator, count: int = 20_000) -> Floats:
    """Random places x, y away from every object, (N, 2)."""
    height, width = place.shape
    tries = rng.uniform((0, 0), (width - 1, height - 1), (count, 2))
    distance, nearest = cKDTree(place.positions).query(tries)
    return np.asarray(tries[distance > BLANK * np.maximum(place.fwhm[nearest], fwhm)])


def _at(plane: Floats, places: Floats) -> Floats:
    height, width = plane.shape
    columns, rows = np.clip(np.rint(places).astype(int), 0, (width - 1, height - 1)).T
    return np.asarray(plane[rows, columns])


def _chance(place: Place, rng: np.random.Generator, count: int = 20_000) -> float:
    height, width = place.shape
    tries = rng.uniform((0, 0), (width - 1, height - 1), (count, 2))
    near = cKDTree(tries).query_ball_point(place.positions, place.fwhm)
    return len({index for some in near for index in some}) / count
