"""What lies over the sky of a frame: trails, light of large extent, gradients and patterns of the background."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label, map_coordinates, median_filter, uniform_filter1d

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.sky import Sky

HOUGH_SIDE = 512  # blocks on the longer side of the map that trails are looked for in
ANGLES = 720  # of half a turn
POINT, BRIGHTEST = 1.5, 4.0  # standard deviations from which a block may be of a trail, and at which it is clipped
ROUND_AXES = 0.7  # degrees from rows and columns: there, lines are the detector's own
STRAIGHT, ACROSS = 71, 15  # blocks along a row or column, and beside it
STREAK, STREAK_SHARE = 0.7, 0.35  # a bright block, and how many more of them a row has than those beside it
CANDIDATES, APART = 12, 3  # lines looked at more closely, and how many bins of the transform they are apart
BESIDE, NEAR = 10, 5  # blocks beside a line that tell its background, from `NEAR` on
SEGMENTS, SHORTEST = 16, 24  # parts of a line at most, and blocks of one at least
SEEN = 2.5  # significance from which a part is seen
THIRD, THIRD_ERROR = 33.0, 1.29  # a percentile, and its error in that of the mean
LEAST_CHORD = 0.25  # of the shorter side
DECILES = 2.563  # standard deviations of a Gaussian between the first and the last decile
FEWEST_BLOCKS = 30  # that tell of a pattern
CLIPPING, ROUNDS = 3.0, 8  # of the fit of a smooth surface
LARGEST_SHARE = 0.5  # of the frame that an object may cover
BLOCK_SIGMA, BLOCK_HEIGHT = 5.0, 0.4  # in deviations of a block, and in sky noise: from where light is extended


@dataclass(frozen=True)
class Trail:
    """The straightest line of light on a frame.

    Attributes
    ----------
    significance : float
        Of its height over what is beside it.
    length : float
        Of the part that is seen, over the shorter side of the frame.
    ends : (float, float, float, float)
        `x0, y0, x1, y1` of that part, 0-based pixel centres.
    """

    significance: float
    length: float
    ends: tuple[float, float, float, float]


@dataclass(frozen=True)
class Extended:
    """The largest object that is no point source.

    Attributes
    ----------
    x, y : float
        Of its brightest part, 0-based pixel centres.
    diameter : float
        Of the circle of its area, in pixels.
    elongation : float
        Major over minor axis.
    lopsided : float
        Distance of its brightest part from its middle, in radii.
    height : float
        Of its brightest part over the smooth background, in units of the sky noise.
    sharpness : float
        Its highest pixels over the median about them: some 10 for a star, 1 to 5 for a galaxy.
    share : float
        Of the frame that it covers.
    at_edge : bool
        Whether it goes on beyond the frame.
    saturated : bool
        Whether its brightest part is.
    """

    x: float
    y: float
    diameter: float
    elongation: float
    lopsided: float
    height: float
    sharpness: float
    share: float
    at_edge: bool
    saturated: bool


@dataclass(frozen=True)
class Background:
    """What the sky looks like at large.

    Attributes
    ----------
    gradient : float
        Range of the smooth surface under the frame, over its median level.
    gradient_sigma : float
        The same in units of the sky noise.
    pattern : float
        Spread of what a smooth surface leaves, in units of the sky noise.
    extended : tuple of Extended
        What rises over it, the largest first.
    """

    gradient: float
    gradient_sigma: float
    pattern: float
    extended: tuple[Extended, ...]


def find_trail(frame: Frame, sky: Sky) -> Trail | None:
    """Look for the trail of a satellite or the like; None where no line stands out at all.

    Parameters
    ----------
    frame : Frame
        Masked pixels are left out.
    sky : Sky
        Of the frame.

    Notes
    -----
    Lines are found by a Hough transform of the blocks that are brighter than the sky, over what so many blocks strewn
    evenly would give, and judged by medians along them, which stars do not move. Bad rows and columns,
    and what bled along them, are taken out before, and with them trails that run within some 2 degrees of them.
    """
    shrink = max(1, -(-max(frame.shape) // HOUGH_SIDE))
    level, noise = sky.upsampled()
    blocks = _means((frame.pixels - level) / noise, shrink)
    spread = 1.4826 * np.nanmedian(np.abs(blocks - np.nanmedian(blocks)))
    if not spread > 0:
        return None
    plane = np.clip(np.nan_to_num(blocks / spread), -BRIGHTEST, BRIGHTEST)
    plane = _without_rows_and_columns(plane)
    lines = [_judged(plane, angle, offset) for angle, offset in _candidates(plane)]
    best = max((line for line in lines if line), key=lambda line: line.length * line.significance, default=None)
    if best is None:
        return None
    ends = tuple(float((end + 0.5) * shrink - 0.5) for end in best.ends)
    return Trail(best.significance, best.length, (ends[0], ends[1], ends[2], ends[3]))


def _means(values: Floats, shrink: int) -> Floats:
    """Means of `shrink` x `shrink` pixels without the masked ones; what is left over at the far edges is cut off."""
    height, width = (side // shrink * shrink for side in values.shape)
    blocks = values[:height, :width].reshape(height // shrink, shrink, width // shrink, shrink)
    known = np.isfinite(blocks)
    amount = known.sum(axis=(1, 3))
    total = np.where(known, np.minimum(blocks, 50.0), 0.0).sum(axis=(1, 3))
    return np.where(amount > 0, total / np.maximum(amount, 1), np.nan)


def _without_rows_and_columns(plane: Floats) -> Floats:
    """The plane with nothing where it stays bright along a row or a column, and right beside that."""
    streaks = np.zeros(plane.shape, bool)
    bright = (plane > STREAK).astype(np.float64)
    for axis in (0, 1):
        share = uniform_filter1d(bright, STRAIGHT, axis=axis, mode="constant")
        straight = (share > 0.5) & (share - uniform_filter1d(share, ACROSS, axis=1 - axis) > STREAK_SHARE)
        along, beside = (STRAIGHT, 1)[:: 1 - 2 * axis], (1, 3)[:: 1 - 2 * axis]
        full = binary_dilation(straight, np.ones(along, bool)) & (plane > 0)
        streaks |= binary_dilation(full, np.ones(beside, bool))
    return np.where(streaks, 0.0, plane)


def _candidates(plane: Floats) -> Iterator[tuple[float, float]]:
    """Angle of the normal in radians, and distance from the middle in blocks, of the lines that most blocks lie on."""
    height, width = plane.shape
    rows, columns = np.nonzero(plane > POINT)
    if not len(rows):
        return
    x, y = columns - (width - 1) / 2, rows - (height - 1) / 2
    reach = int(np.ceil(np.hypot(height, width) / 2)) + 1
    angles = (np.arange(ANGLES) + 0.5) * np.pi / ANGLES
    counts = np.stack(
        [
            np.bincount(np.rint(x * np.cos(angle) + y * np.sin(angle)).astype(int) + reach, minlength=2 * reach + 1)
            for angle in angles
        ]
    )
    chords = np.stack([_chords(angle, np.arange(-reach, reach + 1), plane.shape) for angle in angles])
    expected = chords * len(rows) / plane.size
    excess = np.where(chords > LEAST_CHORD * min(plane.shape), (counts - expected) / np.sqrt(expected + 1), -np.inf)
    from_axis = np.abs((np.degrees(angles) + 45) % 90 - 45)
    excess[from_axis < ROUND_AXES] = -np.inf
    for _ in range(CANDIDATES):
        row, column = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if not excess[row, column] > 3:
            return
        yield float(angles[row]), float(column - reach)
        excess[max(row - APART, 0) : row + APART + 1, max(column - APART, 0) : column + APART + 1] = -np.inf


def _chords(angle: float, offsets: NDArray[np.intp], shape: tuple[int, ...]) -> Floats:
    """How much of a line at each distance from the middle of a rectangle lies inside it."""
    cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
    half_width, half_height = shape[1] / 2, shape[0] / 2
    longest = min(2 * half_width / max(sin, 1e-9), 2 * half_height / max(cos, 1e-9))
    outer, inner = half_width * cos + half_height * sin, abs(half_width * cos - half_height * sin)
    return np.asarray(longest * np.clip((outer - np.abs(offsets)) / max(outer - inner, 1e-9), 0, 1))


def _judged(plane: Floats, angle: float, offset: float) -> Trail | None:
    """Follow a line and the lines beside it, turned a little until it is brightest, and see how far it goes."""
    turned = [_along(plane, angle + turn, offset) for turn in np.linspace(-2, 2, 9) * 0.5 * np.pi / ANGLES]
    values, x, y = max(turned, key=lambda one: float(np.median(one[0], axis=1)[BESIDE - 2 : BESIDE + 3].max()))
    if values.shape[1] < 2 * SHORTEST:
        return None
    parts = np.array_split(np.arange(values.shape[1]), min(values.shape[1] // SHORTEST, SEGMENTS))
    sides = np.abs(np.arange(-BESIDE, BESIDE + 1)) >= NEAR
    middle = BESIDE - 2 + int(np.argmax(np.median(values, axis=1)[BESIDE - 2 : BESIDE + 3]))
    contrast, error = zip(*(_contrast(values[:, part], middle, sides) for part in parts), strict=True)
    seen = np.array(contrast) > SEEN * np.array(error)
    first, last = _longest_run(seen)
    if last <= first:
        return None
    run = np.concatenate(parts[first:last])
    height, spread = _contrast(values[:, run], middle, sides)
    length = len(run) / min(plane.shape)
    ends = (float(x[run[0]]), float(y[run[0]]), float(x[run[-1]]), float(y[run[-1]]))
    return Trail(float(height / spread), float(length), ends)


def _along(plane: Floats, angle: float, offset: float) -> tuple[Floats, Floats, Floats]:
    """Values on a line and on those beside it, (2 BESIDE + 1, N), and the N positions on the line itself."""
    height, width = plane.shape
    cos, sin = np.cos(angle), np.sin(angle)
    steps = np.arange(-np.hypot(height, width) / 2, np.hypot(height, width) / 2)
    x = (width - 1) / 2 + offset * cos - steps * sin
    y = (height - 1) / 2 + offset * sin + steps * cos
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = x[inside], y[inside]
    beside = np.arange(-BESIDE, BESIDE + 1)[:, None]
    values = map_coordinates(plane, [y + beside * sin, x + beside * cos], order=0, mode="nearest")
    return values, x, y


def _contrast(values: Floats, middle: int, sides: NDArray[np.bool_]) -> tuple[float, float]:
    """Height of a line over those beside it, and its error.

    By what a third of the blocks along each of them are under: a trail lifts all of its blocks, stars that happen to
    lie in a row only theirs.
    """
    low = np.percentile(values, THIRD, axis=1)
    beside = low[sides]
    spread = 1.4826 * float(np.median(np.abs(values[sides] - np.median(values[sides], axis=1)[:, None])))
    error = max(THIRD_ERROR * spread / np.sqrt(values.shape[1]), 1e-6)
    unrest = 1.4826 * float(np.median(np.abs(beside - np.median(beside))))
    return float(low[middle] - np.median(beside)), float(np.hypot(error, unrest))


def _longest_run(seen: NDArray[np.bool_]) -> tuple[int, int]:
    """Of what is seen, with single gaps: the first of it, and one past the last."""
    closed = seen | (np.concatenate([[False], seen[:-1]]) & np.concatenate([seen[1:], [False]]))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], closed.astype(int), [0]])))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])


def survey_background(frame: Frame, sky: Sky, fwhm: float) -> Background:
    """Look at what is larger than stars: gradients, patterns, galaxies.

    Parameters
    ----------
    frame : Frame
        Masked pixels are left out.
    sky : Sky
        Of the frame, for its noise.
    fwhm : float
        Of point sources, in pixels.

    Notes
    -----
    On medians of blocks of some three FWHM, which stars do not move, and a quadratic surface that is fitted to them
    without what stands out.
    """
    side = int(np.clip(np.ceil(3 * fwhm), 8, max(min(frame.shape) // 16, 8)))
    noise = float(np.median(sky.noise))
    blocks = _medians(frame.pixels, side)
    smooth = _surface(blocks)
    rest = np.where(np.isfinite(blocks), blocks - smooth, 0.0) / noise
    low, high = np.percentile(smooth, [1, 99])
    level = max(abs(float(np.median(smooth))), noise)
    extended = _extended(frame, rest, side, noise)
    return Background(
        gradient=float(high - low) / level,
        gradient_sigma=float(high - low) / noise,
        pattern=_pattern(rest, side, extended),
        extended=extended,
    )


def _medians(pixels: NDArray[np.float32], side: int) -> Floats:
    """Medians of `side` x `side` pixels; NaN where over half of them are masked."""
    height, width = (length // side * side for length in pixels.shape)
    blocks = pixels[:height, :width].reshape(height // side, side, width // side, side).swapaxes(1, 2)
    values = np.sort(blocks.reshape(*blocks.shape[:2], -1), axis=2)  # NaN goes last
    known = np.isfinite(values).sum(axis=2)
    middle = np.take_along_axis(values, np.maximum(known // 2, 0)[..., None].clip(max=side * side - 1), axis=2)[..., 0]
    return np.where(2 * known > side * side, middle, np.nan).astype(np.float64)


def _surface(blocks: Floats) -> Floats:
    """The quadratic surface through most of the blocks."""
    rows, columns = np.mgrid[-1 : 1 : blocks.shape[0] * 1j, -1 : 1 : blocks.shape[1] * 1j]
    terms = np.stack([np.ones_like(rows), columns, rows, columns**2, rows * columns, rows**2], axis=-1).reshape(-1, 6)
    values = blocks.ravel()
    used = np.isfinite(values)
    fitted = np.full(values.shape, np.median(values[used]) if used.any() else 0.0)
    for _ in range(ROUNDS):
        if used.sum() < 2 * terms.shape[1]:
            break
        coefficients, *_ = np.linalg.lstsq(terms[used], values[used], rcond=None)
        fitted = terms @ coefficients
        rest = values - fitted
        spread = 1.4826 * np.median(np.abs(rest[used] - np.median(rest[used])))
        used = np.isfinite(values) & (np.abs(np.nan_to_num(rest)) <= CLIPPING * max(spread, 1e-12))
    return fitted.reshape(blocks.shape)


def _pattern(rest: Floats, side: int, extended: tuple[Extended, ...]) -> float:
    """Spread of the calmed blocks, in units of the sky noise; the largest object is left out, being no pattern."""
    calm = median_filter(rest, 3, mode="nearest")
    rows, columns = np.indices(rest.shape)
    for one in extended[:1]:
        if one.share < LARGEST_SHARE and not one.at_edge:
            away = np.hypot((columns + 0.5) * side - 0.5 - one.x, (rows + 0.5) * side - 0.5 - one.y)
            calm = calm[away >= one.diameter] if (away >= one.diameter).sum() > FEWEST_BLOCKS else calm
    return float(np.diff(np.percentile(calm, [10, 90]))[0]) / DECILES


def _extended(frame: Frame, rest: Floats, side: int, noise: float) -> tuple[Extended, ...]:
    """Connected blocks that are brighter than the surface, at least three of them, the largest first."""
    steps = np.diff(rest, axis=1)
    spread = 1.4826 * float(np.median(np.abs(steps))) / np.sqrt(2) if steps.size else 0.0
    islands, count = label(rest > max(BLOCK_SIGMA * spread, BLOCK_HEIGHT), np.ones((3, 3)))
    sizes = np.bincount(islands.ravel(), minlength=count + 1)[1:]
    largest = [int(one) + 1 for one in np.argsort(-sizes, kind="stable")[:10] if sizes[one] >= 3]
    return tuple(_described(frame, rest, islands == one, side, noise) for one in largest)


def _described(frame: Frame, rest: Floats, island: NDArray[np.bool_], side: int, noise: float) -> Extended:
    rows, columns = np.nonzero(island)
    row, column = np.unravel_index(int(np.argmax(np.where(island, rest, -np.inf))), rest.shape)
    top, left = row * side, column * side
    window = frame.pixels[top : top + side, left : left + side]
    around = frame.saturated[max(top - side, 0) : top + 2 * side, max(left - side, 0) : left + 2 * side]
    known = window[np.isfinite(window)]
    sky_level = float(np.median(known)) - float(rest[row, column]) * noise if len(known) else 0.0
    peak = float(np.percentile(known, 95)) - sky_level if len(known) else 0.0
    spread = np.cov(np.stack([columns, rows]).astype(float)) + np.eye(2) / 12
    minor, major = np.sqrt(np.linalg.eigvalsh(spread))
    radius = np.sqrt(len(rows) / np.pi)
    height, width = rest.shape
    edges = rows.min() == 0 or columns.min() == 0 or rows.max() == height - 1 or columns.max() == width - 1
    return Extended(
        x=float((column + 0.5) * side - 0.5),
        y=float((row + 0.5) * side - 0.5),
        diameter=float(2 * radius * side),
        elongation=float(major / minor),
        lopsided=float(np.hypot(column - columns.mean(), row - rows.mean()) / radius),
        height=float(rest[row, column]),
        sharpness=peak / max(float(rest[row, column]) * noise, 1e-9),
        share=float(len(rows) / rest.size),
        at_edge=bool(edges),
        saturated=bool(around.any()),
    )
