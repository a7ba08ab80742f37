"""Trails of satellites, aeroplanes and meteors: straight lines of light across a frame."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from lynceus.frame import Frame
from lynceus.line_sums import LineSums, line_sums
from lynceus.sky import Sky
from lynceus.trail import ROUND_AXES, Ends, Trail, TrailSpec, follow, place_on

__all__ = ["Trail", "TrailSpec", "find_trails", "place_on"]

BLOCKS = 256  # on the longer side of the map that is searched, a power of two
SMALLEST = 128  # pixels; a line on less is no trail
CEILING = 3.0  # standard deviations at which pixels and blocks are clipped, so that a star is no line
STRIP = 1 << 17  # pixels that are summed at once: they fit a processor's cache
SURROUNDINGS = 15  # blocks whose mean is taken from each: galaxies and halos are wider
CANDIDATES, APART = 5, 4.0  # lines looked at closely for each trail; blocks between lines that are not the same
LIKELY = 6.0  # standard deviations from which a sum along a line is worth a look


def find_trails(frame: Frame, sky: Sky, spec: TrailSpec | None = None) -> list[Trail]:
    """Find all trails on a frame, the clearest first.

    Parameters
    ----------
    frame : Frame
        Masked pixels are left out.
    sky : Sky
        Of the frame.
    spec : TrailSpec or None
        What counts; the defaults where it is None.

    Returns
    -------
    list of Trail
        None of them within 1 degree of a row or column: bad ones, and what bleeds along them, look the same.

    Notes
    -----
    Lines are found by their sums over a map of blocks, and judged on the pixels, part by part, by quartiles along them,
    which stars hardly move. A trail is narrow, as bright at one end as at the other and darker on both its sides:
    diffraction spikes, galaxies seen edge-on and tails of comets fade, and the steps of a mosaic have one dark side.
    Each trail is hidden before the next is looked for.
    """
    spec = spec or TrailSpec()
    trails: list[Trail] = []
    if min(frame.shape) < SMALLEST:
        return trails
    factor = -(-max(frame.shape) // BLOCKS)
    blocks = block_map(frame, sky, factor)
    refused: list[Ends] = []
    while len(trails) < spec.most:
        trail = None
        for line in _candidates(blocks, spec.least_share, refused):
            trail = follow(frame, sky, _scaled(line, factor), factor, spec)
            if trail is not None:
                break
            refused.append(line)
        if trail is None:
            break
        trails.append(trail)
        blocks = np.where(on_trail(trail, blocks.shape, factor), 0, blocks).astype(np.float32)
    return trails


def block_map(frame: Frame, sky: Sky, factor: int) -> NDArray[np.float32]:
    """Means of `factor` x `factor` pixels over the sky and over their surroundings, in units of their own spread."""
    rows, columns = (side // factor for side in frame.shape)
    level, noise = sky.on_grid((np.arange(rows) + 0.5) * factor - 0.5, (np.arange(columns) + 0.5) * factor - 0.5)
    low, high = (np.repeat(level + side * CEILING * noise, factor, axis=1) for side in (-1, 1))
    sums = np.empty((rows, columns * factor), np.float32)
    at_once = max(STRIP // (factor * sums.shape[1]), 1)
    for row in range(0, rows, at_once):
        part = slice(row, min(row + at_once, rows))
        strip = frame.pixels[part.start * factor : part.stop * factor, : columns * factor].reshape(
            -1, factor, sums.shape[1]
        )
        clipped = np.clip(strip, low[part, None], high[part, None])
        clipped.sum(axis=1, out=sums[part])
        if np.isnan(sums[part]).any():
            middle = np.repeat(level[part, None], factor, axis=2)
            np.where(np.isnan(clipped), middle, clipped).sum(axis=1, out=sums[part])
    means = sums.reshape(rows, columns, factor).sum(axis=2) / factor**2
    heights = (means - level) / noise
    heights -= np.median(heights)
    spread = 1.4826 * float(np.median(np.abs(heights)))
    heights = np.clip(heights / max(spread, 1e-6), -CEILING, CEILING)
    return np.asarray(np.clip(heights - uniform_filter(heights, SURROUNDINGS), -CEILING, CEILING), np.float32)


def on_trail(trail: Trail, shape: tuple[int, ...], factor: int) -> NDArray[np.bool_]:
    """Which blocks (R, C) a trail, or what surrounds it, touches."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    x, y = (column + 0.5) * factor - 0.5, (row + 0.5) * factor - 0.5
    along, across = place_on(trail, x, y)
    reach = trail.width / 2 + 1.5 * factor
    return np.asarray((np.abs(across) < reach) & (along > -reach) & (along < trail.length + reach))


def _candidates(blocks: NDArray[np.float32], least_share: float, refused: Sequence[Ends]) -> Iterator[Ends]:
    """Ends, in blocks, of the lines along which a map (R, C) is brightest, the clearest first; no refused ones."""
    plane = np.zeros((BLOCKS, BLOCKS), np.float32)
    plane[: blocks.shape[0], : blocks.shape[1]] = blocks
    weights = _weights(blocks.shape[0], blocks.shape[1], least_share)
    peaks: list[tuple[float, Ends]] = []
    for sums, weight in zip(line_sums(plane), weights, strict=True):
        peaks += _peaks(sums, sums.values * weight)
    known = list(refused)
    most = len(known) + CANDIDATES
    for _, line in sorted(peaks, reverse=True):
        if len(known) < most and all(_differ(line, other) for other in known):
            known.append(line)
            yield line


@lru_cache(maxsize=2)
def _weights(rows: int, columns: int, least_share: float) -> list[NDArray[np.float32]]:
    """What sums along lines are to be multiplied with to have a spread of one; 0 for those that are no candidates."""
    inside = np.zeros((BLOCKS, BLOCKS), np.float32)
    inside[:rows, :columns] = 1
    weights = []
    for sums in line_sums(inside):
        chord = sums.values
        steep = np.degrees(np.arctan(np.arange(sums.width) / (sums.width - 1)))
        chord[:, :, steep < ROUND_AXES] = 0
        long_enough = chord > min(0.8 * least_share * min(rows, columns), 0.9 * sums.width)
        weights.append(np.where(long_enough, 1 / np.sqrt(np.maximum(chord, 1)), 0).astype(np.float32))
    return weights


def _peaks(sums: LineSums, significance: NDArray[np.float32]) -> list[tuple[float, Ends]]:
    """The most significant lines of each strip and way, those beside them left out."""
    found = []
    around = max(sums.width // 32, 4)
    for way, strip in np.ndindex(significance.shape[:2]):
        here = significance[way, strip]
        for _ in range(CANDIDATES):
            shift, row = np.unravel_index(int(np.argmax(here)), here.shape)
            value = float(here[shift, row])
            if value < LIKELY:
                break
            found.append((value, sums.ends(way, strip, int(shift), int(row))))
            here[max(shift - around, 0) : shift + around + 1, max(row - around, 0) : row + around + 1] = 0
    return found


def _differ(one: Ends, other: Ends) -> bool:
    """Whether a line does not lie on another one, prolonged."""
    _, across = place_on(Trail(*other, 0.0), np.array(one[::2]), np.array(one[1::2]))
    return bool(np.abs(across).max() > APART)


def _scaled(line: Sequence[float], factor: int) -> Trail:
    """A line in blocks, in pixels."""
    x0, y0, x1, y1 = ((end + 0.5) * factor - 0.5 for end in line)
    return Trail(x0, y0, x1, y1, 0.0)
