"""One trail: what it is, and how a line is followed across a frame and judged."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.sky import Sky
from lynceus.spec import Spec

ROUND_AXES = 1.0  # degrees from rows and columns: lines there are the detector's own
BESIDE, REACH = 30, 40  # pixels from a line between which its background is
SEGMENT, SEEN = 64, 3.5  # pixels of each part of a line, longer than a bright star, and how significant one must be
GAP, LEAST_SEEN = 3, 0.7  # parts in a row that may be missing, and the share of all that is seen
LEAST_PARTS = 4  # that are seen: in a crowd, fewer happen to be in a row
UNEVEN = 2.5  # brightest over faintest parts; of a spike or a galaxy it is 3 and more
ALONE, FARTHEST = 0.4, 15  # of its height, what may lie beside it: fringes lie side by side; pixels from where on
MOSTLY = 0.6  # of a trail's parts that are brightest on it
STEP = 0.5  # of a trail's height, by which its two sides may differ
CLEAR, CLEAR_ACROSS = 12.0, 5.0  # times what scatters beside it, of a trail that ends on the frame, that crosses it
LEAST_INSIDE = 0.5  # of the shorter side that a trail is long which meets no border
WINGS = 0.01  # of a trail's height, to which its width goes
AIM = 8  # pixels by which a line is off that was found on a part of it and prolonged
BLUR = 2.0  # pixels that are added on each side

Ends = tuple[float, float, float, float]  # x, y of both ends of a line


class Trail(NamedTuple):
    """A straight line of light: 0-based pixel centres of its ends, and its width, in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float
    width: float

    @property
    def length(self) -> float:
        """From end to end, in pixels."""
        return float(np.hypot(self.x1 - self.x0, self.y1 - self.y0))

    @property
    def direction(self) -> tuple[float, float]:
        """Of unit length, along x and y."""
        return (self.x1 - self.x0) / self.length, (self.y1 - self.y0) / self.length


class TrailSpec(Spec):
    """What counts as a trail.

    Attributes
    ----------
    least_share : float
        Of the shorter side of the frame that a trail is long.
    least_height : float
        Of a trail over what is beside it, in standard deviations of the sky.
    most : int
        Trails of a frame that are looked for.
    """

    least_share: float = Field(0.3, gt=0)
    least_height: float = Field(0.25, gt=0)
    most: int = Field(8, ge=1)


def place_on(trail: Trail, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """How far along a trail, from its first end, and how far across it positions are, in pixels."""
    cos, sin = trail.direction
    return (x - trail.x0) * cos + (y - trail.y0) * sin, (y - trail.y0) * cos - (x - trail.x0) * sin


def follow(frame: Frame, sky: Sky, line: Trail, factor: int, spec: TrailSpec) -> Trail | None:
    """Move and turn a line to where it is brightest, see how far it goes and how wide it is, and whether it is one.

    Parameters
    ----------
    frame, sky : Frame, Sky
        What is looked at.
    line : Trail
        Roughly there, its ends within 1.5 `factor` pixels; its width is of no matter.
    factor : int
        Side of the blocks that it was found on, in pixels.
    spec : TrailSpec
        What counts as a trail.

    Returns
    -------
    Trail or None
        To half a pixel, as far as it is seen; None where there is none.
    """
    near = _bounded(line, frame.shape, whole=False)
    reach = int(1.5 * factor) + 4
    strip = None if near is None else _strip(frame, sky, near, reach + 2, step=2)
    aimed = None if strip is None else _bounded(_aimed(strip, reach), frame.shape, whole=True)
    if aimed is None or _from_axes(aimed) < ROUND_AXES:
        return None
    strip = _strip(frame, sky, aimed, REACH + AIM, step=1)
    return None if strip is None else _judged(strip, frame.shape, spec)


class _Strip(NamedTuple):
    """What lies along a line and beside it: lower quartiles over its parts.

    `quartiles` (2 reach + 1, P), in standard deviations; `known` (P,), where it is not masked; the line.
    """

    quartiles: NDArray[np.float32]
    known: NDArray[np.bool_]
    line: Trail


def _bounded(line: Trail, shape: tuple[int, int], *, whole: bool) -> Trail | None:
    """The part of a line that is on a frame, or all of it where it is prolonged; None where none is."""
    (cos, sin), (height, width) = line.direction, shape
    first, last = (-np.inf, np.inf) if whole else (0.0, line.length)
    for start, direction, side in ((line.x0, cos, width), (line.y0, sin, height)):
        meets = sorted((end - start) / (direction if abs(direction) > 1e-9 else 1e-9) for end in (0.0, side - 1.0))
        first, last = max(first, meets[0]), min(last, meets[1])
    if last - first < 2 * SEGMENT:
        return None
    return _between_ends(line, first, last)


def _between_ends(line: Trail, first: float, last: float) -> Trail:
    """What lies of a line between two places along it, in pixels from its first end."""
    cos, sin = line.direction
    x, y, width = line.x0, line.y0, line.width
    return Trail(x + first * cos, y + first * sin, x + last * cos, y + last * sin, width)


def _from_axes(line: Trail) -> float:
    """Degrees between a line and the nearer of rows and columns."""
    return abs(float(np.degrees(np.arctan2(line.y1 - line.y0, line.x1 - line.x0)) + 45) % 90 - 45)


def _strip(frame: Frame, sky: Sky, line: Trail, reach: int, step: int) -> _Strip | None:
    """Look along a line, at pixels up to `reach` to each side; every `step`-th pixel of it is enough."""
    parts = int(line.length) // SEGMENT
    if parts < 2:
        return None
    (cos, sin), (height, width) = line.direction, frame.shape
    along = np.linspace(0, line.length, parts * (SEGMENT // step))
    beside = np.arange(-reach, reach + 1)[:, None]
    x, y = line.x0 + along * cos, line.y0 + along * sin
    columns, rows = np.rint(x - beside * sin).astype(np.int32), np.rint(y + beside * cos).astype(np.int32)
    off = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    values = frame.pixels[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    values = np.where(off | (values >= (frame.facts.saturation or np.inf)), np.nan, values)  # charge runs along columns
    squares = np.rint(y).astype(int) // sky.mesh, np.rint(x).astype(int) // sky.mesh
    heights = (values - sky.level[squares]) / sky.noise[squares]
    heights[np.isnan(heights)] = 0  # as the sky is
    known = np.isfinite(values[reach - 1 : reach + 2]).reshape(3, parts, -1).mean(axis=(0, 2)) > 0.5
    heights = heights.reshape(len(beside), parts, -1)
    quarter = heights.shape[2] // 4
    return _Strip(np.partition(heights, quarter, axis=2)[:, :, quarter], known, line)


def _aimed(strip: _Strip, reach: int) -> Trail:
    """The line, its ends moved across it by up to `reach` pixels to where it is brightest."""
    moves = np.arange(-reach, reach + 1, 1 + reach // 16)
    centres = _between(moves[:, None], moves[None, :], strip.quartiles.shape[1])
    first, last = (int(moves[index]) for index in _brightest(strip.quartiles, centres))
    return _moved(strip.line, first, last)


def _between(first: NDArray[np.intp], last: NDArray[np.intp], parts: int) -> NDArray[np.intp]:
    """How far across each of P parts lies, of a line whose ends do so, shape (..., P)."""
    return np.rint(first[..., None] + (last - first)[..., None] * np.linspace(0, 1, parts)).astype(np.intp)


def _brightest(quartiles: NDArray[np.float32], centres: NDArray[np.intp]) -> tuple[int, ...]:
    """Which of many lines (..., P) is brightest in the mean, each part counting by the order of its light."""
    heights = np.arcsinh(_smooth(quartiles - np.median(quartiles, axis=0)))
    means = heights[centres + len(quartiles) // 2, np.arange(quartiles.shape[1])].mean(axis=-1)
    return tuple(int(index) for index in np.unravel_index(int(np.argmax(means)), means.shape))


def _smooth(quartiles: Floats) -> Floats:
    """Means of three rows."""
    padded = np.pad(quartiles, ((1, 1), (0, 0)), mode="edge")
    return np.asarray((padded[:-2] + padded[1:-1] + padded[2:]) / 3)


def _judged(strip: _Strip, shape: tuple[int, int], spec: TrailSpec) -> Trail | None:
    """The trail that lies on a line, give or take AIM pixels; None where there is none."""
    moves = np.arange(-AIM, AIM + 1)
    parts, middle = strip.quartiles.shape[1], len(strip.quartiles) // 2
    centres = _between(moves[:, None], moves[None, :], parts)
    best = _brightest(strip.quartiles, centres)
    first, last = (int(moves[index]) for index in best)
    rows = centres[best] + np.arange(middle - REACH, middle + REACH + 1)[:, None]
    straight = strip.quartiles[rows, np.arange(parts)]
    heights, seen, steps = _seen(straight, spec.least_height)
    run = _longest_run(seen, strip.known)
    lit = run[seen[run]]
    if len(lit) < max(LEAST_PARTS, LEAST_SEEN * strip.known[run].sum()):
        return None
    if abs(np.median(steps[lit])) > STEP * np.median(heights[lit]):
        return None
    width = _width(np.median(straight[:, lit], axis=1), spec.least_height)
    if width is None or not _is_straight(straight[:, lit], width):
        return None
    trail = _cut_to(_moved(strip.line, first, last), run, parts, width)
    return trail if _is_trail(trail, heights[lit], _clearness(straight[:, lit]), shape, spec) else None


def _moved(line: Trail, first: float, last: float) -> Trail:
    """A line with its ends moved across it."""
    cos, sin = line.direction
    return Trail(line.x0 - first * sin, line.y0 + first * cos, line.x1 - last * sin, line.y1 + last * cos, line.width)


def _seen(straight: NDArray[np.float32], least_height: float) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """By part of a line: its height over what is beside it, whether it is seen, and how its two sides differ."""
    smooth = _smooth(straight)
    left, right = smooth[: REACH - BESIDE + 1], smooth[REACH + BESIDE :]
    levels = np.median(left, axis=0), np.median(right, axis=0)
    error = 1.4826 * float(np.median(np.abs(np.concatenate([left - levels[0], right - levels[1]]))))
    heights = smooth[REACH] - (levels[0] + levels[1]) / 2
    return heights, heights > max(SEEN * error, least_height), levels[0] - levels[1]


def _longest_run(seen: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The parts (K,) of a line from the first to the last that is seen, with no more than GAP missing in a row."""
    places = np.flatnonzero(seen)
    if not len(places):
        return places
    missing = np.cumsum(~seen & known)
    runs = np.split(places, np.flatnonzero(np.diff(missing[places]) > GAP) + 1)
    longest = max(runs, key=lambda run: run[-1] - run[0])
    return np.arange(longest[0], longest[-1] + 1)


def _width(profile: Floats, least_height: float) -> float | None:
    """How wide a line is, of which this is the profile across (2 REACH + 1,); None if it is too wide for a trail."""
    profile = profile - np.median(np.concatenate([profile[: REACH - BESIDE + 1], profile[REACH + BESIDE :]]))
    peak = float(profile[REACH - 1 : REACH + 2].mean())
    sides = np.stack([profile[REACH::-1], profile[REACH:]])
    dark = np.flatnonzero(sides.max(axis=0)[1:BESIDE] < max(least_height, WINGS * peak))
    half = int(dark[0]) + 1 if len(dark) else BESIDE
    beyond = sides[:, min(half, FARTHEST) :]
    return None if np.abs(beyond).max() > ALONE * peak else 2 * (half + BLUR)


def _is_straight(parts: Floats, width: float) -> bool:
    """Whether most parts (2 REACH + 1, K) of a line are brightest on it, and not beside it."""
    brightest = np.abs(_smooth(parts).argmax(axis=0) - REACH)
    return bool((brightest <= width / 2).mean() > MOSTLY)


def _cut_to(line: Trail, run: NDArray[np.intp], parts: int, width: float) -> Trail:
    """A line from the first to the last part of a run, and one more at either end: it may end within that."""
    first = float(max(run[0] - 1, 0)) / parts * line.length
    last = float(min(run[-1] + 2, parts)) / parts * line.length
    return _between_ends(line, first, last)._replace(width=width)


def _clearness(parts: Floats) -> float:
    """Height of a line over the scatter of the rows beside it; parts (2 REACH + 1, K)."""
    profile = _smooth(parts).mean(axis=1)
    away = np.concatenate([profile[: REACH - FARTHEST], profile[REACH + FARTHEST + 1 :]])
    return float(profile[REACH] - np.median(away)) / max(float(away.std()), 1e-6)


def _is_trail(trail: Trail, heights: Floats, clearness: float, shape: tuple[int, int], spec: TrailSpec) -> bool:
    """Whether a line is long enough, and as even and clear as a trail is that ends where it does."""
    borders = sum(_at_border(x, y, shape) for x, y in ((trail.x0, trail.y0), (trail.x1, trail.y1)))
    least = spec.least_share if borders else max(spec.least_share, LEAST_INSIDE)
    faint, bright = np.quantile(heights, [0.2, 0.8])
    if trail.length < least * min(shape) or bright > UNEVEN * faint or _from_axes(trail) < ROUND_AXES:
        return False
    return clearness > (CLEAR_ACROSS if borders == 2 else CLEAR)


def _at_border(x: float, y: float, shape: tuple[int, int]) -> bool:
    return min(x, y, shape[1] - 1 - x, shape[0] - 1 - y) < SEGMENT / 2
