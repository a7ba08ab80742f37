"""Gaussian filters at some places of a frame, and the noise that they meet on it; works without torch."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.sky import Indices, Sky

BACKGROUND = 2.0  # widths of the source that its surroundings are taken from
REACH = 4.0  # widths of the source to the border of its stamp
LARGEST = 24  # samples from the middle of a stamp to its border; of larger sources every second, third... pixel is one
SAMPLES = 4000  # places on the frame that tell the noise of a filter; fewer of a wide one, for it costs more
SAMPLED = 1_200_000  # pixels that they may take
FEW_SAMPLES = 200  # with fewer, the noise is taken as white
RUNGS = 6  # widths at which it is measured
CLIP, ROUNDS = (5.0, 2.0), 8  # standard deviations below and above; sources are above
CHUNK = 1_000_000  # stamp pixels held at once


def filtered(frame: Frame, sky: Sky, x: Floats, y: Floats, width: Floats) -> Floats:
    """Filter a frame at some places.

    Parameters
    ----------
    frame : Frame
        A pixel without a value, or outside, counts as sky.
    sky : Sky
        Of the frame.
    x, y : ndarray, shape (N,)
        0-based pixel centres.
    width : ndarray, shape (N,)
        Standard deviation of the Gaussian, in pixels.

    Returns
    -------
    ndarray, shape (N, 2)
        In the Gaussian, and in the Gaussian less one twice as wide; in standard deviations, were the noise white.
    """
    level, noise = _sky_at(sky, x, y)
    values = np.zeros((len(x), 2))
    for members, half, step in _groups(width):
        offsets = step * np.arange(-half, half + 1)
        columns, dx = _axis(x[members], offsets)
        rows, dy = _axis(y[members], offsets)
        stamps = _stamps(frame.pixels, rows, columns)
        stamps -= level[members, None, None]
        stamps[np.isnan(stamps)] = 0.0
        s = width[members, None]
        near, far = (
            np.einsum("nij,ni,nj->n", stamps, _gaussian(dy, k * s), _gaussian(dx, k * s)) / k for k in (1.0, BACKGROUND)
        )
        unit = step / (np.sqrt(np.pi) * width[members] * noise[members])
        values[members] = np.stack([near * unit, (near - far / BACKGROUND) * unit], axis=1)
    return values


def filtered_on_lattice(frame: Frame, sky: Sky, rows: Indices, columns: Indices, width: float) -> Floats:
    """Filter a frame where some of its rows and columns cross: as `filtered`, but one axis at a time.

    Parameters
    ----------
    frame, sky : Frame, Sky
        As there.
    rows, columns : ndarray, shape (R,) and (C,)
        Of pixels.
    width : float
        Standard deviation of the Gaussian, in pixels.

    Returns
    -------
    ndarray, shape (R, C, 2)
        As there.
    """
    half, step = _stamp(_rung(width))
    offsets = step * np.arange(-half, half + 1)
    scales = np.array([[1.0], [BACKGROUND]])
    kernels = _gaussian(offsets, scales * width) / np.sqrt(scales)
    lines, down = _reach(rows, offsets, kernels, frame.shape[0])
    places, across = _reach(columns, offsets, kernels, frame.shape[1])
    level, noise = sky.on_grid(rows, columns)
    zero = np.float32(np.median(level))  # close to all values: sums of float32 lose nothing
    sums, weights = np.empty((2, len(rows), 2, len(columns)))
    count = max(CHUNK // (len(offsets) * frame.shape[1]), 1)
    for first in range(0, len(rows), count):
        part = slice(first, first + count)
        strips = frame.pixels[lines[part]] - zero
        bad = np.isnan(strips)
        strips[bad] = 0
        sums[part] = np.einsum("rkcs,cks->rkc", (down[part] @ strips)[:, :, places], across)
        if bad.any():
            weights[part] = np.einsum("rkcs,cks->rkc", (down[part] @ ~bad)[:, :, places], across)
        else:
            weights[part] = down[part].sum(axis=2)[:, :, None] * across.sum(axis=2).T
    near, far = np.moveaxis(sums - (level - zero)[:, None] * weights, 1, 0)
    unit = step / (np.sqrt(np.pi) * width * noise)
    return np.stack([near * unit, (near - far / BACKGROUND) * unit], axis=2)


def filter_noise(frame: Frame, sky: Sky, width: Floats) -> Floats:
    """The scatter of both filters of `filtered` on the sky of this frame; 1 and 0.67 were it white and finely sampled.

    Parameters
    ----------
    frame, sky : Frame, Sky
        The frame and its sky.
    width : ndarray, shape (N,)
        Standard deviation of the Gaussian, in pixels.

    Returns
    -------
    ndarray, shape (N, 2)
        At each width, between those measured on a straight line in logarithms.
    """
    rungs = np.unique(np.geomspace(width.min(), width.max(), RUNGS))
    scatter = np.array([_scatter_at(frame, sky, one) for one in rungs])
    at = np.log(width)
    return np.stack([np.exp(np.interp(at, np.log(rungs), np.log(column))) for column in scatter.T], axis=1)


def _sky_at(sky: Sky, x: Floats | Indices, y: Floats | Indices) -> tuple[Floats, Floats]:
    """Level and noise at some places, in ADU, of their shape each."""
    at = [(y + 0.5) / sky.mesh - 0.5, (x + 0.5) / sky.mesh - 0.5]
    level, noise = (map_coordinates(part, at, np.float64, order=1, mode="nearest") for part in (sky.level, sky.noise))
    return level, noise


def _rung(width: ArrayLike) -> Indices:
    """Sources of one rung share the size of their stamps."""
    return np.asarray(np.ceil(4 * np.log2(width)), np.intp)


def _stamp(rung: int | Indices) -> tuple[int, int]:
    """Samples from the middle of a stamp to its border, and pixels from one to the next."""
    reach = int(np.ceil(REACH * 2 ** (rung / 4)))
    step = -(-reach // LARGEST)
    return -(-reach // step), step


def _groups(width: Floats) -> Iterator[tuple[Indices, int, int]]:
    """Places that share a stamp: their indices, and its samples as `_stamp` has them."""
    rung = _rung(width)
    for one in np.unique(rung):
        members = np.flatnonzero(rung == one)
        half, step = _stamp(one)
        count = max(CHUNK // (2 * half + 1) ** 2, 1)
        for first in range(0, len(members), count):
            yield members[first : first + count], half, step


def _reach(places: Indices, offsets: Indices, kernels: Floats, end: int) -> tuple[Indices, NDArray[np.float32]]:
    """Pixels along one axis about N places, (N, S), and what two kernels (2, S) give each, (N, 2, S): outside, 0."""
    pixels = places[:, None] + offsets
    inside = (pixels >= 0) & (pixels < end)
    return pixels.clip(0, end - 1), (kernels * inside[:, None]).astype(np.float32)


def _axis(centre: Floats, offsets: Indices) -> tuple[Indices, Floats]:
    """Pixels along one axis, and how far each is from the centre, (N, S) both."""
    pixels = np.rint(centre).astype(int)[:, None] + offsets
    return pixels, pixels - centre[:, None]


def _stamps(pixels: NDArray[np.float32], rows: Indices, columns: Indices) -> Floats:
    """Pixels (N, S, S), NaN outside the frame."""
    height, width = pixels.shape
    values = pixels[np.clip(rows, 0, height - 1)[:, :, None], np.clip(columns, 0, width - 1)[:, None, :]]
    stamps = values.astype(np.float64)
    below, beside = ((rows < 0) | (rows >= height)), ((columns < 0) | (columns >= width))
    if below.any() or beside.any():
        stamps[below[:, :, None] | beside[:, None, :]] = np.nan
    return stamps


def _gaussian(offset: Floats | Indices, width: Floats) -> Floats:
    return np.asarray(np.exp(-0.5 * (offset / width) ** 2))


def _scatter_at(frame: Frame, sky: Sky, width: float) -> Floats:
    """The scatter of both filters at one width, (2,)."""
    side = 2 * min(REACH * width, LARGEST) + 1
    rows, columns = _lattice(frame.shape, min(SAMPLES, int(SAMPLED / side**2)))
    seen = ~np.isnan(frame.pixels[np.ix_(rows, columns)])
    return _scatter_of(filtered_on_lattice(frame, sky, rows, columns, width)[seen])


def _lattice(shape: tuple[int, int], count: int) -> tuple[Indices, Indices]:
    """Rows and columns that cross in some `count` places all over a frame."""
    step = max(int(np.sqrt(shape[0] * shape[1] / count)), 1)
    rows, columns = (np.arange(step // 2, side, step) for side in shape)
    return rows, columns


def _scatter_of(values: Floats) -> Floats:
    """Standard deviation of each column (M, 2) below its median, sources clipped away; of white noise if too few."""
    white = np.array([1.0, np.sqrt(1 - 2 * 2 / (1 + BACKGROUND**2) + BACKGROUND**-2)])
    if len(values) < FEW_SAMPLES:
        return white
    scatter = np.array([_low_side(np.sort(column)) for column in values.T])
    return np.asarray(np.maximum(scatter, 0.1 * white))


def _low_side(ordered: Floats) -> float:
    below, above = CLIP
    for _ in range(ROUNDS):
        median, low = ordered[len(ordered) // 2], ordered[int(0.1587 * len(ordered))]
        first, last = np.searchsorted(ordered, [median - below * (median - low), median + above * (median - low)])
        if last - first in (0, len(ordered)):
            break
        ordered = ordered[first:last]
    return float(median - low)
