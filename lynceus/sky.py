"""The sky under a frame: one low-resolution map of level and noise, SExtractor's recipe.

It needs no torch, so that measuring and the base install can use it; `normalise` interpolates
the same map where the network runs.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.spec import Spec

Indices = NDArray[np.intp]

WIDE = 512  # columns that are interpolated at once: few squares matter to them
BORDER = 2  # squares around the map that cubic interpolation may reach into
QUANTISATION_NOISE = 1 / np.sqrt(12.0)  # standard deviation of rounding to a step of 1


class SkySpec(Spec):
    """How the sky is estimated.

    Attributes
    ----------
    mesh : int
        Side of the squares the sky is estimated on, in pixels.
    clip : float
        Pixels further than this many standard deviations from the median are left out.
    iterations : int
        At most so many rounds of clipping.
    good_fraction : float
        A square with a smaller share of usable pixels is filled from its neighbours.
    """

    mesh: int = 64
    clip: float = 3.0
    iterations: int = 30
    good_fraction: float = 0.5


@dataclass(frozen=True, eq=False)
class Sky:
    """Sky level and noise on a grid of squares.

    Attributes
    ----------
    level, noise : ndarray, shape (rows, columns), float32
        In ADU; the value in [i, j] stands at the centre of its square of `mesh` pixels.
    mesh : int
        Side of a square, in pixels.
    shape : (int, int)
        Height and width of the frame, in pixels.
    """

    level: NDArray[np.float32]
    noise: NDArray[np.float32]
    mesh: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if self.level.shape != self.noise.shape or self.level.ndim != 2:
            raise ValueError("level and noise must be two maps of one shape")
        if not np.isfinite(self.level).all() or not (self.noise > 0).all():
            raise ValueError("the sky must be finite and its noise positive")

    def upsampled(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Level and noise at every pixel, two arrays of shape (H, W), in ADU."""
        everywhere = slice(0, self.shape[0]), slice(0, self.shape[1])
        return self.level_in(*everywhere), self.noise_in(*everywhere)

    def level_in(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """The level at every pixel of some rows and columns, both slices with two ends, in ADU."""
        return self._interpolated(self._bordered[0], rows, columns)

    def noise_in(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """The noise there, in ADU."""
        noise = self._interpolated(self._bordered[1], rows, columns)
        return np.asarray(np.exp(noise, out=noise))

    def noise_at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """The noise at N pixels, shape (N,), in ADU."""
        down, across = self._interpolations
        return np.asarray(np.exp(np.einsum("ni,ni->n", down[rows] @ self._bordered[1], across.T[columns])))

    def on_grid(self, rows: Floats | Indices, columns: Floats | Indices) -> tuple[Floats, Floats]:
        """Level and noise where rows (R,) and columns (C,) cross, two arrays (R, C) in ADU, linear between squares."""
        level, noise = self.level, self.noise
        for axis, places in ((0, rows), (1, columns)):
            position = np.clip((places + 0.5) / self.mesh - 0.5, 0, level.shape[axis] - 1)
            first = np.minimum(position.astype(int), max(level.shape[axis] - 2, 0))
            second = np.minimum(first + 1, level.shape[axis] - 1)
            share = (position - first).astype(np.float32)
            share = share[:, None] if axis == 0 else share
            level, noise = (
                part.take(first, axis) * (1 - share) + part.take(second, axis) * share for part in (level, noise)
            )
        return level, noise

    def window(self, x: int, y: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The part of the map that a tile needs to interpolate its own sky.

        Parameters
        ----------
        x, y : int
            First column and row of the tile, in pixels.
        size : int
            Side of the tile, in pixels.

        Returns
        -------
        window : ndarray, shape (2, K, K), float32
            Level, and the logarithm of the noise, which can then be interpolated without turning
            negative; outside the frame the level goes on straight, the noise stays.
        phase : ndarray, shape (2,), float32
            Row and column, in squares of the window, at which the centre of the tile's first pixel lies.
        """
        maps = self._bordered
        reach = np.arange(window_size(size, self.mesh))
        first_row, row_phase = _first_square(y, self.mesh)
        first_column, column_phase = _first_square(x, self.mesh)
        rows = np.clip(BORDER + first_row + reach, 0, maps.shape[1] - 1)[:, None]
        columns = np.clip(BORDER + first_column + reach, 0, maps.shape[2] - 1)
        return maps[:, rows, columns], np.array([row_phase, column_phase], np.float32)

    def _interpolated(self, plane: NDArray[np.float32], rows: slice, columns: slice) -> NDArray[np.float32]:
        """A bordered map at some pixels."""
        down, across = self._interpolations
        lines = down[rows] @ plane
        values = np.empty((len(lines), columns.stop - columns.start), np.float32)
        for left in range(columns.start, columns.stop, WIDE):
            right = min(left + WIDE, columns.stop)
            squares = slice(left // self.mesh, BORDER + right // self.mesh + 3)
            there = slice(left - columns.start, right - columns.start)
            np.matmul(lines[:, squares], across[squares, left:right], out=values[:, there])
        return values

    @cached_property
    def _interpolations(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What a bordered map is multiplied with from the left and the right to stand at every pixel."""
        rows, columns = self._bordered.shape[1:]
        return _interpolation(self.shape[0], self.mesh, rows), _interpolation(self.shape[1], self.mesh, columns).T

    @cached_property
    def _bordered(self) -> NDArray[np.float32]:
        """Level and log noise with a border, so that a gradient does not flatten towards the frame's edge."""
        level = np.pad(self.level, BORDER, mode="reflect", reflect_type="odd")
        return np.stack([level, np.pad(np.log(self.noise), BORDER, mode="edge")])


def window_size(size: int, mesh: int) -> int:
    """Squares on a side that a tile of `size` pixels needs for cubic interpolation."""
    return -(-size // mesh) + 4


def cubic_taps(fraction: Any) -> tuple[Any, Any, Any, Any]:
    """Weights of the four neighbours in cubic convolution (Keys 1981, a = -1/2).

    Parameters
    ----------
    fraction : ndarray or Tensor
        Position between the second neighbour (0) and the third (1).

    Returns
    -------
    tuple of four arrays of the same shape
        They sum to one; a plane is reproduced exactly.
    """
    f = fraction
    return (
        ((-0.5 * f + 1.0) * f - 0.5) * f,
        (1.5 * f - 2.5) * f * f + 1.0,
        ((-1.5 * f + 2.0) * f + 0.5) * f,
        (0.5 * f - 0.5) * f * f,
    )


def estimate_sky(frame: Frame, spec: SkySpec) -> Sky:
    """Estimate the sky level and noise of a frame.

    Parameters
    ----------
    frame : Frame
        Masked pixels (NaN) are left out.
    spec : SkySpec
        Mesh and clipping.

    Returns
    -------
    Sky
        In ADU; the noise is never below the frame's quantisation step / sqrt(12).

    Notes
    -----
    In every square: clipping about the median until it settles, then the mode
    2.5 median - 1.5 mean, or the median where the two differ by over 0.3 standard
    deviations; last a 3 x 3 median over the squares (Bertin & Arnouts 1996, section 3).
    """
    height, width = frame.shape
    strips = [_strip_statistics(frame.pixels[top : top + spec.mesh], spec) for top in range(0, height, spec.mesh)]
    level, noise = np.stack([level for level, _ in strips]), np.stack([noise for _, noise in strips])
    if not np.isfinite(level).any():  # too few usable pixels in every square: one value for all
        level[:], noise[:] = _clipped_mode(np.sort(frame.pixels[~frame.mask]), spec)
    level, noise = _median_3x3(level, "odd"), _median_3x3(noise, "even")
    floor = max(frame.quantum * QUANTISATION_NOISE, 1e-6 * float(np.abs(level).max()), 1e-30)
    return Sky(level, np.maximum(noise, np.float32(floor)), spec.mesh, (height, width))


def _strip_statistics(strip: NDArray[np.float32], spec: SkySpec) -> tuple[Floats, Floats]:
    """Level and noise of each square in one row of squares; NaN where too few pixels are usable."""
    rows, width = strip.shape
    squares = -(-width // spec.mesh)
    values = np.full((squares, rows, spec.mesh), np.nan, np.float32)
    whole = width // spec.mesh
    values[:whole] = strip[:, : whole * spec.mesh].reshape(rows, whole, spec.mesh).swapaxes(0, 1)
    values[whole:, :, : width - whole * spec.mesh] = strip[:, whole * spec.mesh :]
    values = values.reshape(squares, -1)
    values.sort(axis=1)  # NaN goes last
    usable = np.full(squares, values.shape[1])
    holed = np.isnan(values[:, -1])
    usable[holed] = np.isfinite(values[holed]).sum(axis=1)
    area = rows * np.minimum(spec.mesh, width - spec.mesh * np.arange(squares))
    statistics = [
        _clipped_mode(row[:count], spec) if count >= spec.good_fraction * total and count else (np.nan, np.nan)
        for row, count, total in zip(values, usable, area, strict=True)
    ]
    level, noise = np.array(statistics, np.float32).T
    return level, noise


def _clipped_mode(ordered: NDArray[np.float32], spec: SkySpec) -> tuple[float, float]:
    """Mode and standard deviation of ordered values, clipped until they settle."""
    pivot = float(ordered[len(ordered) // 2])
    offsets = _without_absurd(ordered.astype(np.float64) - pivot)
    low, high = 0, len(offsets)
    for _ in range(spec.iterations):
        kept, count = offsets[low:high], high - low
        mean = float(kept.sum()) / count
        deviation = math.sqrt(max(float(kept @ kept) / count - mean * mean, 0.0))
        median = float(kept[(count - 1) // 2] + kept[count // 2]) / 2
        reach = spec.clip * deviation
        bounds = int(offsets.searchsorted(median - reach)), int(offsets.searchsorted(median + reach, side="right"))
        if bounds == (low, high) or bounds[0] == bounds[1]:
            break
        low, high = bounds
    mode = 2.5 * median - 1.5 * mean if abs(mean - median) < 0.3 * deviation else median
    return pivot + mode, deviation


def _without_absurd(offsets: Floats) -> Floats:
    """Ordered values less those so far out that running sums would lose the others beside them."""
    count = len(offsets)
    reach = 1e4 * (offsets[3 * count // 4] - offsets[count // 4])
    if reach <= 0:
        return offsets
    return offsets[np.searchsorted(offsets, -reach) : np.searchsorted(offsets, reach, side="right")]


def _median_3x3(grid: Floats, border: Literal["odd", "even"]) -> NDArray[np.float32]:
    """Median of each square and its neighbours; squares without a value take it from them.

    An odd border carries a gradient on, so that the median does not flatten it at the edge.
    """
    rows, columns = grid.shape
    overall = np.nanmedian(grid)
    bordered = np.pad(grid, 1, mode="reflect", reflect_type=border)
    neighbours = np.stack([bordered[i : i + rows, j : j + columns] for i in range(3) for j in range(3)])
    alone = np.isnan(neighbours).all(axis=0)
    neighbours[:, alone] = overall
    return np.nanmedian(neighbours, axis=0).astype(np.float32)


def _first_square(start: int, mesh: int) -> tuple[int, float]:
    """The first square a tile that starts at `start` needs, and where its first pixel lies from there."""
    position = (start + 0.5) / mesh - 0.5
    first = int(np.floor(position)) - 1
    return first, position - first


def _interpolation(length: int, mesh: int, squares: int) -> NDArray[np.float32]:
    """The matrix (length, squares) that interpolates a bordered column of squares at every pixel."""
    position = (np.arange(length) + 0.5) / mesh - 0.5
    base = np.floor(position).astype(int)
    matrix = np.zeros((length, squares), np.float32)
    for tap, weight in enumerate(cubic_taps(position - base), start=-1):
        np.add.at(matrix, (np.arange(length), np.clip(BORDER + base + tap, 0, squares - 1)), weight)
    return matrix
