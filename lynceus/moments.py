"""Centroid and shape of many sources at once, from Gaussian-weighted moments on small stamps."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Floats
from lynceus.sources import FWHM_PER_SIGMA

SHAPE_WINDOW = 0.4  # variance of the weight over that of the source: narrow, so that the wings of a star count little
SAMPLING = 0.05  # px^6; widens the weight of undersampled sources until it holds more than one pixel
POSITION_SAMPLING = 0.46  # px^6, the same for positions, where it is an integral without help; of bright sources
POSITION_SURE = 150.0  # signal to noise at which half of that is given
COARSEST_STAMP = 13  # samples on a side; sources on larger stamps are so wide that a sum over pixels is an integral
SHAPE_ROUNDS, POSITION_ROUNDS = 4, 3
SMALLEST_VARIANCE = 0.2  # px^2, a FWHM of 1.05 px; the pixel alone has 1/12
GROWTH = 4.0  # a variance may become so many times larger or smaller than the box says
STRAY = 0.8  # FWHM, by the box, that a centroid may be away from the box centre, and at least 1 px
REACH = 4.5  # standard deviations, by the box, from the centre of a stamp to its side
LARGEST_STAMP = 81  # samples on a side; a larger source is sampled every second, third... pixel
CHUNK = 500_000  # stamp pixels held at once
RIM = 0.67  # of the half side of a stamp, from where on its pixels tell the slope of the sky
RIM_CLIP = 3.0  # robust standard deviations: what is farther from the median of the rim is a neighbour's
SLOPE_SURE = 6.0  # chi squared of two degrees of freedom, which noise alone passes once in twenty
TO_SIGMA = 1.4826  # from the median absolute deviation to the standard deviation of a Gaussian


@dataclass(frozen=True, eq=False)
class Shapes:
    """Where N sources are, and their extent.

    Attributes
    ----------
    x, y : ndarray, shape (N,)
        0-based pixel centres.
    covariance : ndarray, shape (N, 2, 2)
        Second moments of the nearest Gaussian, in square pixels.
    flux, snr : ndarray, shape (N,)
        Amplitude of that Gaussian by a matched filter, in ADU, and its signal to noise.
    failed : ndarray, shape (N,), bool
        Nothing could be measured: position and covariance are those of the box.
    """

    x: Floats
    y: Floats
    covariance: Floats
    flux: Floats
    snr: Floats
    failed: NDArray[np.bool_]

    @property
    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Semi-axes a >= b in pixels (one standard deviation) and the angle of a from +x in radians, (N,) each."""
        xx, yy, xy = self.covariance[:, 0, 0], self.covariance[:, 1, 1], self.covariance[:, 0, 1]
        mean, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        return np.sqrt(mean + half), np.sqrt(np.maximum(mean - half, 1e-6)), np.arctan2(2 * xy, xx - yy) / 2

    @property
    def radius(self) -> Floats:
        """Geometric mean of the semi-axes in pixels, (N,)."""
        a, b, _ = self.axes
        return np.sqrt(a * b)


@dataclass(frozen=True, eq=False)
class _Stamps:
    """Squares of S x S pixels cut out around N positions, with where each pixel is."""

    values: Floats  # (N, S, S), 0 where bad
    bad: NDArray[np.bool_]  # (N, S, S)
    columns: Floats  # (N, S), pixel centres
    rows: Floats  # (N, S)
    area: int  # pixels that each sample stands for

    @property
    def coarse(self) -> bool:
        """Whether the sources may be so narrow that a sum over pixels is no integral."""
        return len(self.columns[0]) <= COARSEST_STAMP


def measure_shapes(
    data: NDArray[np.float32],
    bad: NDArray[np.bool_],
    x: Floats,
    y: Floats,
    variance: Floats,
    noise: Floats,
    gain: float | None,
) -> Shapes:
    """Measure position, shape and signal to noise of sources, from a first guess.

    Parameters
    ----------
    data : ndarray, shape (H, W)
        Counts over the sky, in ADU; anything where `bad`.
    bad : ndarray, shape (H, W), bool
        Pixels to leave out.
    x, y : ndarray, shape (N,)
        First guess, 0-based pixel centres, inside the frame.
    variance : ndarray, shape (N, 2)
        First guess of the extent along x and y, in square pixels.
    noise : ndarray, shape (N,)
        Standard deviation of the sky at each source, in ADU.
    gain : float or None
        Electrons per ADU.

    Returns
    -------
    Shapes
        In the order given.

    Notes
    -----
    Adaptive moments (Bernstein & Jarvis 2002, section 3): the second moments under a Gaussian weight that follows
    the source, from which the weight is taken out again, (M^-1 - W^-1)^-1, which is exact for a Gaussian. The
    weight of the shape is narrower than the source, so that a Moffat profile of beta = 3 is given its FWHM to 4 %,
    where a weight as wide as the source errs by 13 %. The position is then found under a weight of the source's own
    shape: SExtractor's XWIN, with an ellipse for its circle. Where sources are hardly wider than pixels, what a
    Gaussian of that place and shape would show is subtracted from both, so that neither depends on where in its pixel
    a source is, and the weight need not be wide for it; only bright sources get a wider one too. Bad pixels, and those
    past the edge of the frame, are replaced by the Gaussian of the round before. Where the rim of a stamp shows that
    the sky slopes, as on fringes and in halos, that slope is taken out first.
    """
    count = len(x)
    shapes = Shapes(x.copy(), y.copy(), np.zeros((count, 2, 2)), np.zeros(count), np.zeros(count), np.ones(count, bool))
    for members, side, step in _groups(variance):
        stamps = _levelled(_cut(data, bad, x[members], y[members], side, step))
        start = np.maximum(variance[members], SMALLEST_VARIANCE)[:, :, None] * np.eye(2)
        centre = np.stack([x[members], y[members]], axis=1)
        position, covariance, failed = _settle(stamps, centre, start, noise[members], gain)
        shapes.x[members], shapes.y[members] = position.T
        shapes.covariance[members], shapes.failed[members] = covariance, failed
        shapes.flux[members], shapes.snr[members] = _filter(stamps, position, covariance, noise[members], gain)
    return shapes


def stamp_reach(variance: Floats) -> Floats:
    """Pixels from the middle of the stamp of each source to its sides, (N,), for a first guess of the extent (N, 2)."""
    return _half_side(_rung(variance))


def _rung(variance: Floats) -> NDArray[np.intp]:
    """The step of each source on a ladder of stamp sizes, an eighth apart, (N,)."""
    reach = REACH * np.sqrt(variance.max(axis=1, initial=0.0)) + 1
    return np.asarray(np.ceil(6 * np.log2(np.maximum(reach, 4) / 4)), np.intp)


def _half_side(rung: NDArray[np.intp]) -> Floats:
    return np.asarray(np.ceil(4 * 2 ** (rung / 6)))


def _groups(variance: Floats) -> Iterator[tuple[NDArray[np.intp], int, int]]:
    """Sources that share a stamp size: their indices, the side in samples (odd) and the pixels from one to the next."""
    rung = _rung(variance)
    for size in np.unique(rung):
        members = np.flatnonzero(rung == size)
        half = int(_half_side(size))
        step = -(-half // (LARGEST_STAMP // 2))
        side = 2 * (half // step) + 1
        for first in range(0, len(members), max(CHUNK // side**2, 1)):
            yield members[first : first + max(CHUNK // side**2, 1)], side, step


def _cut(data: NDArray[np.float32], bad: NDArray[np.bool_], x: Floats, y: Floats, side: int, step: int) -> _Stamps:
    """Cut stamps out of the frame; what lies outside it is bad."""
    offsets = step * (np.arange(side) - side // 2)
    columns = np.rint(x).astype(int)[:, None] + offsets
    rows = np.rint(y).astype(int)[:, None] + offsets
    height, width = data.shape
    outside = ((rows < 0) | (rows >= height))[:, :, None] | ((columns < 0) | (columns >= width))[:, None, :]
    index = np.clip(rows, 0, height - 1)[:, :, None], np.clip(columns, 0, width - 1)[:, None, :]
    hidden = bad[index] | outside
    values = np.where(hidden, 0.0, data[index].astype(np.float64))
    return _Stamps(values, hidden, columns.astype(float), rows.astype(float), step * step)


def _levelled(stamps: _Stamps) -> _Stamps:
    """Take the slope of the sky out of the stamps whose rims show one; their centres keep their level."""
    half = stamps.values.shape[1] // 2
    across, down = np.meshgrid(np.arange(-half, half + 1.0), np.arange(-half, half + 1.0))
    rim = np.hypot(across, down) > RIM * half
    values, used = stamps.values[:, rim], ~stamps.bad[:, rim]
    away = np.abs(values - np.median(values, axis=1, keepdims=True))
    used &= away < RIM_CLIP * TO_SIGMA * np.median(away, axis=1, keepdims=True)
    slope, certainty = _slopes(values, used, np.stack([np.ones(rim.sum()), across[rim], down[rim]], axis=1))
    slope = np.where(certainty[:, None] > SLOPE_SURE, slope, 0.0)[:, :, None, None]
    return replace(stamps, values=np.where(stamps.bad, 0.0, stamps.values - slope[:, 0] * across - slope[:, 1] * down))


def _slopes(values: Floats, used: NDArray[np.bool_], terms: Floats) -> tuple[Floats, Floats]:
    """Slopes (N, 2) of planes through the values (N, K) that are used, and chi squared (N,) against there being none.

    Parameters
    ----------
    values, used : ndarray, shape (N, K)
        Pixels, and which of them count.
    terms : ndarray, shape (K, 3)
        Of the planes: 1, column and row.
    """
    normal = (used @ (terms[:, :, None] * terms[:, None, :]).reshape(-1, 9)).reshape(-1, 3, 3)
    inverse = np.linalg.inv(normal + 1e-6 * np.eye(3))
    plane = np.einsum("nab,nb->na", inverse, np.where(used, values, 0.0) @ terms)
    rest = np.where(used, values - plane @ terms.T, 0.0)
    variance = np.square(rest).sum(axis=1) / np.maximum(used.sum(axis=1) - 3, 1)
    slope = plane[:, 1:]
    precision = _inverse(inverse[:, 1:, 1:])
    chi_squared = np.einsum("na,nab,nb->n", slope, precision, slope) / np.maximum(variance, 1e-12)
    return slope, np.where(used.sum(axis=1) > len(terms) // 2, chi_squared, 0.0)


def _settle(
    stamps: _Stamps, centre: Floats, start: Floats, noise: Floats, gain: float | None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Iterate positions (N, 2) and covariances (N, 2, 2) until they agree with the pixels; last, which failed."""
    position, covariance = centre, start
    failed = np.zeros(len(centre), bool)
    sampling: Floats = np.zeros(len(centre))
    for turn in range(SHAPE_ROUNDS + POSITION_ROUNDS):
        shaping = turn < SHAPE_ROUNDS
        if turn == SHAPE_ROUNDS and stamps.coarse:
            sampling = _position_sampling(_filter(stamps, position, covariance, noise, gain)[1])
        weight = _window(covariance, SHAPE_WINDOW, SAMPLING) if shaping else _window(covariance, 1.0, sampling)
        total, mean, moments = _weighted_moments(_filled(stamps, position, covariance), stamps, position, weight)
        expected_mean, expected, spread = _expected(stamps, position, covariance, weight)
        failed |= ~(total > 0)
        # The weight pulls the mean towards its own centre; a step of Gauss and Newton undoes that.
        pull = _inverse(expected - _outer(expected_mean))
        shift = np.einsum("nij,njk,nk->ni", covariance, pull, mean - expected_mean)
        if shaping:
            unweighted = _bounded(_inverse(moments - expected + spread) - _inverse(weight), start)
            covariance = np.where(failed[:, None, None], covariance, unweighted)
        limit = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        position = position + np.where(failed[:, None], 0.0, np.clip(shift, -limit, limit))
    stray = np.maximum(1.0, STRAY * FWHM_PER_SIGMA * np.sqrt(np.diagonal(start, axis1=1, axis2=2)))
    failed |= (np.abs(position - centre) > stray).any(axis=1)
    return np.where(failed[:, None], centre, position), np.where(failed[:, None, None], start, covariance), failed


def _window(covariance: Floats, share: float, sampling: Floats | float) -> Floats:
    """Covariance of the weight for sources of a given covariance, (N, 2, 2); `sampling` in px^6, (N,) or one."""
    narrowest = _inverse(covariance)
    return share * covariance + np.reshape(sampling, (-1, 1, 1)) * (narrowest @ narrowest)


def _position_sampling(snr: Floats) -> Floats:
    """How much the weight of a position is widened, in px^6, (N,).

    A weight as wide as the source has the least noise, but tells where in its pixel an undersampled source is only as
    well as that source is a Gaussian; the wider one needs no such likeness, and a bright source can bear its noise.
    """
    power = np.square(np.clip(np.nan_to_num(snr), 0.0, 1e6))
    return np.asarray(POSITION_SAMPLING * power / (power + POSITION_SURE**2))


def _expected(stamps: _Stamps, position: Floats, covariance: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean offset and second moments that Gaussians at these places have on pixels under a weight, and the integral.

    A sum over pixels is not an integral where a source is as narrow as they are: what a Gaussian in its place would
    show is subtracted, and the error with it.
    """
    spread = _inverse(_inverse(covariance) + _inverse(weight))
    if not stamps.coarse:
        return np.zeros_like(position), spread, spread
    _, mean, moments = _weighted_moments(np.ones((1, 1, 1)), stamps, position, spread)
    return mean, moments, spread


def _outer(vectors: Floats) -> Floats:
    return np.asarray(vectors[:, :, None] * vectors[:, None, :])


def _weighted_moments(
    values: Floats, stamps: _Stamps, position: Floats, weight: Floats
) -> tuple[Floats, Floats, Floats]:
    """Sum (N,), mean offset (N, 2) and second moments (N, 2, 2) about `position`, under a Gaussian weight."""
    dx, dy = stamps.columns - position[:, :1], stamps.rows - position[:, 1:]
    weighted = values * _gaussian(dx, dy, weight)
    along_x, along_y = weighted.sum(axis=1), weighted.sum(axis=2)
    total = along_x.sum(axis=1)
    safe = np.where(total > 0, total, 1.0)
    mean = np.stack([(along_x * dx).sum(axis=1), (along_y * dy).sum(axis=1)], axis=1) / safe[:, None]
    xx, yy = (along_x * dx * dx).sum(axis=1), (along_y * dy * dy).sum(axis=1)
    xy = np.einsum("nj,nj->n", np.matmul(dy[:, None, :], weighted)[:, 0], dx)
    return total, mean, np.stack([xx, xy, xy, yy], axis=1).reshape(-1, 2, 2) / safe[:, None, None]


def _filled(stamps: _Stamps, position: Floats, covariance: Floats) -> Floats:
    """Stamps whose bad pixels hold what the Gaussian fitted to the good ones has there."""
    holes = np.flatnonzero(stamps.bad.any(axis=(1, 2)))
    if not len(holes):
        return stamps.values
    values, bad = stamps.values.copy(), stamps.bad[holes]
    dx, dy = stamps.columns[holes] - position[holes, :1], stamps.rows[holes] - position[holes, 1:]
    model = _gaussian(dx, dy, covariance[holes])
    seen = np.where(bad, 0.0, model)
    amplitude = (seen * values[holes]).sum(axis=(1, 2)) / np.maximum((seen * seen).sum(axis=(1, 2)), 1e-12)
    values[holes] = np.where(bad, amplitude[:, None, None] * model, values[holes])
    return values


def _filter(
    stamps: _Stamps, position: Floats, covariance: Floats, noise: Floats, gain: float | None
) -> tuple[Floats, Floats]:
    """Flux (N,) and signal to noise (N,) of the Gaussian that best fits the good pixels; NaN where there are none."""
    template = _gaussian(stamps.columns - position[:, :1], stamps.rows - position[:, 1:], covariance)
    template /= stamps.area * template.sum(axis=(1, 2), keepdims=True)
    seen = np.where(stamps.bad, 0.0, template)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a header may hold any gain
        flux = (seen * stamps.values).sum(axis=(1, 2)) / (seen * seen).sum(axis=(1, 2))
        photons = np.maximum(flux, 0.0)[:, None, None] * template / gain if gain else 0.0
        information = (seen * seen / (noise[:, None, None] ** 2 + photons)).sum(axis=(1, 2))
        return flux, flux * np.sqrt(stamps.area * information)


def _gaussian(dx: Floats, dy: Floats, covariance: Floats) -> Floats:
    """Draw a Gaussian of height 1 on stamps (N, S, S), from the offsets of their columns and rows (N, S)."""
    precision = _inverse(covariance)
    cross = 2 * precision[:, 0, 1, None] * dy
    square = (precision[:, 0, 0, None] * dx * dx)[:, None, :] + (precision[:, 1, 1, None] * dy * dy)[:, :, None]
    square += cross[:, :, None] * dx[:, None, :]
    square *= -0.5
    return np.exp(square, out=square)


def _bounded(precision: Floats, start: Floats) -> Floats:
    """Covariances from their inverses, (N, 2, 2), kept within reach of those the boxes gave."""
    variances = np.diagonal(start, axis1=1, axis2=2)
    low = np.maximum(variances.min(axis=1) / GROWTH, SMALLEST_VARIANCE)
    high = variances.max(axis=1) * GROWTH
    values, vectors = np.linalg.eigh(precision)
    values = np.clip(values, 1 / high[:, None], 1 / low[:, None])
    return np.asarray((vectors / values[:, None, :]) @ vectors.swapaxes(1, 2))


def _inverse(matrix: Floats) -> Floats:
    """Inverse of symmetric 2 x 2 matrices, (N, 2, 2); a singular one gives large numbers, not an error."""
    xx, xy, yy = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 1]
    determinant = xx * yy - xy * xy
    determinant = np.where(np.abs(determinant) < 1e-12, 1e-12, determinant)
    return np.stack([yy, -xy, -xy, xx], axis=1).reshape(-1, 2, 2) / determinant[:, None, None]
