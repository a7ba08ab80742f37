"""How well positions are measured: the errors of isolated stars, in units of what photons and pixels allow."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lynceus.detections import Floats
from lynceus.figures import Figures
from lynceus.matching import NONE, match_centres
from lynceus.sources import FWHM_PER_SIGMA, Sources
from training.scenes.ranges import SceneSpec
from training.scenes.scene import Planned, draw_scene
from training.scenes.stamps import PHASES
from training.tiling.exposures import LabelledExposure

BOUND = 0.6  # sqrt(2) / 2.3548: error of a Gaussian along an axis, in FWHM / SNR (Cramer and Rao; white noise)
APART = 5.0  # mean FWHM to the nearest other source, for an isolated one
TO_SIGMA = 1.4826  # from the median absolute deviation to the standard deviation of a Gaussian
PHASE_BINS = 8


@dataclass(frozen=True, eq=False)
class Stars:
    """Sources of one frame whose place is known exactly.

    Attributes
    ----------
    positions : ndarray, shape (M, 2)
        x, y, 0-based pixel centres.
    snr : ndarray, shape (M,)
        Of a matched filter that knows profile and noise.
    fwhm : ndarray, shape (M, 2)
        Observed, along x and along y, in pixels.
    """

    positions: Floats
    snr: Floats
    fwhm: Floats

    def __post_init__(self) -> None:
        count = len(self.snr)
        if self.positions.shape != (count, 2) or self.fwhm.shape != (count, 2):
            raise ValueError(f"{count} stars need as many positions and widths, (M, 2) each")

    def __getitem__(self, index: NDArray[np.bool_]) -> "Stars":
        return Stars(self.positions[index], self.snr[index], self.fwhm[index])

    @property
    def bound(self) -> Floats:
        """Least standard deviation of a position along x and y, in pixels, (M, 2)."""
        return np.asarray(BOUND * self.fwhm / self.snr[:, None])


@dataclass(frozen=True, eq=False)
class Errors:
    """Measured less true positions of N matched stars.

    Attributes
    ----------
    offset : ndarray, shape (N, 2)
        In pixels, along x and y.
    bound : ndarray, shape (N, 2)
        What they may scatter by, in pixels.
    phase : ndarray, shape (N, 2)
        Where in its pixel each star is, -0.5 to 0.5 from the centre.
    snr : ndarray, shape (N,)
        As in `Stars`.
    """

    offset: Floats
    bound: Floats
    phase: Floats
    snr: Floats

    def __len__(self) -> int:
        return len(self.snr)


class PositionFigures(Figures):
    """What errors of positions come to, both axes together unless said otherwise; None where there is nothing to tell.

    Attributes
    ----------
    stars : int
        Isolated and matched within a FWHM.
    scatter : float
        Robust standard deviation (1.4826 median absolute deviation) of error over bound; 1 is the best there is.
    rms : float
        Root mean square of the same ratio: what strays counts too.
    bias : (float, float)
        Mean error along x and along y, in pixels, the farthest twentieth on each side left out.
    bias_error : float
        Standard error of a bias, in pixels.
    phase_bias : float
        The largest mean error of the stars of one phase, an eighth of a pixel wide, in pixels; phases of fewer than 20
        stars aside.
    phase_error : float
        Standard error of the mean of one phase, in pixels.
    """

    stars: int
    scatter: float | None = None
    rms: float | None = None
    bias: tuple[float, float] | None = None
    bias_error: float | None = None
    phase_bias: float | None = None
    phase_error: float | None = None


def stars_of(truth: Table) -> Stars:
    """The stars and galaxies of a table that `draw_scene` made, with their exact widths."""
    positions = np.stack([np.asarray(truth[axis], np.float64) for axis in ("x", "y")], axis=1).reshape(-1, 2)
    fwhm = FWHM_PER_SIGMA * np.sqrt(np.stack([np.asarray(truth[axis], np.float64) for axis in ("xx", "yy")], axis=1))
    return Stars(positions, np.asarray(truth["snr"], np.float64), fwhm.reshape(-1, 2))


def stars_under(exposure: LabelledExposure, box_scale: float = 2.5) -> Stars:
    """The sources of an exposure with exact truth; widths come from the boxes, so they are never below the least."""
    truth = exposure.truth
    if truth.centres is None:
        raise ValueError("positions can only be judged under an exact truth")
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).astype(np.float64)
    return Stars(np.stack(truth.centres, axis=1), np.asarray(truth.brightness, np.float64), sides / box_scale)


def isolated(stars: Stars, apart: float = APART) -> NDArray[np.bool_]:
    """True for a star with no other within `apart` mean FWHM, (M,)."""
    if len(stars.snr) < 2:
        return np.ones(len(stars.snr), bool)
    distance, nearest = cKDTree(stars.positions).query(stars.positions, k=[2])
    width = np.sqrt(stars.fwhm.prod(axis=1))
    return np.asarray(distance[:, 0] > apart * np.maximum(width, width[nearest[:, 0]]))


def position_errors(stars: Stars, sources: Sources, alone: bool = True) -> Errors:
    """Match measured sources with the true ones within a FWHM, and compare their places.

    Parameters
    ----------
    stars : Stars
        All of a frame.
    sources : Sources
        What was measured on it.
    alone : bool
        Only of stars that are `isolated`.
    """
    places = np.stack([sources.x, sources.y], axis=1)
    width = np.sqrt(stars.fwhm.prod(axis=1))
    unsure = ~np.isfinite(stars.snr)
    match = match_centres(places, sources.detections.scores, stars.positions, width, unsure)
    star = match.source_of[match.source_of != NONE]
    offset = (places[match.source_of != NONE] - stars.positions[star]).reshape(-1, 2)
    wanted = ~unsure[star] & (isolated(stars)[star] | (not alone))
    star, offset = star[wanted], offset[wanted]
    true = stars.positions[star]
    return Errors(offset, stars.bound[star], true - np.rint(true), stars.snr[star])


def pooled(parts: Iterable[Errors]) -> Errors:
    """Errors on several frames, one after the other."""
    listed = list(parts)
    nothing = Errors(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    columns = (
        np.concatenate([getattr(part, name) for part in (nothing, *listed)])
        for name in ("offset", "bound", "phase", "snr")
    )
    return Errors(*columns)


def position_figures(pairs: Iterable[tuple[Stars | LabelledExposure, Sources]]) -> PositionFigures:
    """Figures over frames: the truth of each, exact or as an exposure holds it, and what was measured there."""
    truths = ((stars_under(one) if isinstance(one, LabelledExposure) else one, found) for one, found in pairs)
    return figures_of(pooled(position_errors(stars, found) for stars, found in truths))


def figures_of(errors: Errors) -> PositionFigures:
    """Figures of matched errors."""
    if not len(errors):
        return PositionFigures(stars=0)
    ratio = errors.offset / errors.bound
    spread = TO_SIGMA * float(np.median(np.abs(ratio - np.median(ratio, axis=0))))
    bias, error = zip(*(_trimmed_mean(errors.offset[:, axis]) for axis in (0, 1)), strict=True)
    by_phase = [one for axis in (0, 1) for one in _phase_means(errors.offset[:, axis], errors.phase[:, axis])]
    worst = max(by_phase, key=lambda one: abs(one[0])) if by_phase else None
    return PositionFigures(
        stars=len(errors),
        scatter=spread,
        rms=float(np.sqrt(np.mean(np.square(ratio)))),
        bias=(bias[0], bias[1]),
        bias_error=max(error),
        phase_bias=None if worst is None else abs(worst[0]),
        phase_error=None if worst is None else worst[1],
    )


def _phase_means(offset: Floats, phase: Floats) -> Iterator[tuple[float, float]]:
    """Mean and its standard error for the stars of each phase, of those with enough of them."""
    bins = np.rint(phase * PHASE_BINS).astype(int) % PHASE_BINS
    for number in range(PHASE_BINS):
        if (bins == number).sum() >= 20:
            yield _trimmed_mean(offset[bins == number])


def _trimmed_mean(values: Floats) -> tuple[float, float]:
    """Mean without the farthest twentieth on each side, and its standard error."""
    cut = len(values) // 20
    inner = np.sort(values)[cut : len(values) - cut]
    spread = TO_SIGMA * float(np.median(np.abs(values - np.median(values))))
    return float(inner.mean()), spread / len(values) ** 0.5


def star_grid(
    spec: SceneSpec, snr: float | Sequence[float], step: int, seed: int, companion: tuple[float, float] | None = None
) -> tuple[fits.PrimaryHDU, Table]:
    """Draw a frame of equal, isolated stars at every sub-pixel phase.

    Parameters
    ----------
    spec : SceneSpec
        Optics, sky and noise.
    snr : float or sequence of float
        Of the stars, in turn.
    step : int
        From star to star, in pixels.
    seed : int
        Of everything that is left to chance.
    companion : (float, float) or None
        Every star gets a neighbour in a random direction: how far away, in pixels, and at what SNR.

    Returns
    -------
    frame, truth
        As `draw_scene` has them.
    """
    rng = np.random.default_rng(seed)
    brightness = np.atleast_1d(np.asarray(snr, np.float64))

    def plan(side: int) -> list[Planned]:
        steps = range(step // 2, side - step // 2 + 1, step)
        places = [(column, row) for row in steps for column in steps]
        planned = []
        for number, place in enumerate(rng.permutation(len(places))):
            (column, row), (x, y) = places[place], divmod(number % PHASES**2, PHASES)
            planned.append(Planned("star", column, row, (x, y), float(brightness[number % len(brightness)])))
            if companion is not None:
                planned.append(_companion(planned[-1], *companion, rng))
        return planned

    return draw_scene(rng, spec, plan)


def _companion(star: Planned, distance: float, snr: float, rng: np.random.Generator) -> Planned:
    """A star so many pixels from another, in some direction."""
    angle = rng.uniform(0, 2 * np.pi)
    away = np.rint(PHASES * distance * np.array([np.cos(angle), np.sin(angle)])).astype(int)
    (x, y), (right, up) = (away + star.phase) % PHASES, (away + star.phase) // PHASES
    return Planned("star", star.column + int(right), star.row + int(up), (int(x), int(y)), snr)
