"""Trails on frames that nobody simulated: found, hidden as pixels, and taken out of the truth, whose boxes would void
whole tiles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.sky import Sky
from lynceus.truth import Truth
from training.scenes.artefacts import trail_mask

Line = tuple[float, float, float, float, float]

MOST_TRAILS, CANDIDATES = 8, 6  # trails of a frame, and lines looked at closely for each of them
HOUGH_SIDE, ANGLES = 256, 360  # blocks on the longer side of the map that is searched, and steps of half a turn
BRIGHT, APART = 1.5, 4  # deviations from which a block may be of a trail; bins between lines that are not the same
ROUND_AXES = 0.7  # degrees from rows and columns: lines there are the detector's own
TURNS = np.radians(np.linspace(-0.6, 0.6, 13))  # a candidate is turned by these, to where it is brightest
REACH, BESIDE = 40, 30  # pixels to each side of a line that are looked at; from the second on, they are its background
CEILING = 3.0  # standard deviations at which pixels are clipped, so that a star is no line
SEGMENT, SEEN = 64, 4.0  # pixels of each part of a line, longer than a bright star, and how significant one must be
QUARTILE = 2.02  # error of the lower quartile of a Gaussian's values times their root number, over its quartile
LEAST_SHARE = 0.3  # of the shorter side that a trail is long
LEAST_HEIGHT = 0.25  # of a trail over what is beside it, in standard deviations of the sky
BLUR = 2.0  # pixels that are added on each side
LARGEST_BOX = 2.0  # widths of the trail: a larger box about a position on it is its own, not that of a star under it


def find_trails(frame: Frame, sky: Sky) -> list[Line]:
    """All trails on a frame: straight lines of light, the clearest first.

    Parameters
    ----------
    frame : Frame
        Masked pixels are left out.
    sky : Sky
        Of the frame.

    Returns
    -------
    list of (x0, y0, x1, y1, width)
        0-based pixel centres of the ends, and width, in pixels.

    Notes
    -----
    Lines are found by a Hough transform of bright blocks, and judged, part by part, by quartiles along them, which
    stars hardly move. Each is hidden before the next is looked for.
    """
    level, noise = sky.upsampled()
    heights = np.clip(np.nan_to_num((frame.pixels - level) / noise), -CEILING, None)
    trails: list[Line] = []
    while len(trails) < MOST_TRAILS:
        found = (_followed(heights, angle, offset) for angle, offset in _candidates(heights))
        trail = next((line for line in found if line is not None), None)
        if trail is None:
            break
        trails.append(trail)
        heights[trail_mask([trail], frame.shape)] = 0.0
    return trails


def _candidates(heights: Floats) -> Iterator[tuple[float, float]]:
    """Angle of the normal in radians, and distance from the first pixel's corner, of lines that many blocks lie on."""
    factor = -(-max(heights.shape) // HOUGH_SIDE)
    rows, columns = (side // factor for side in heights.shape)
    blocks = np.minimum(heights[: rows * factor, : columns * factor], CEILING)
    blocks = blocks.reshape(rows, factor, columns, factor).mean(axis=(1, 3))
    spread = 1.4826 * np.median(np.abs(blocks - np.median(blocks)))
    y, x = np.nonzero(blocks - np.median(blocks) > BRIGHT * max(spread, 1e-6))
    reach = int(np.hypot(rows, columns)) + 1
    angles = np.arange(ANGLES) * np.pi / ANGLES
    counts = np.stack([_counted(x, y, angle, reach) for angle in angles])
    every_y, every_x = np.divmod(np.arange(rows * columns), columns)
    chords = np.stack([_counted(every_x, every_y, angle, reach) for angle in angles])
    expected = chords * len(x) / max(rows * columns, 1)
    excess = np.where(chords > LEAST_SHARE * min(rows, columns), (counts - expected) / np.sqrt(expected + 1), 0.0)
    excess[np.abs((np.degrees(angles) + 45) % 90 - 45) < ROUND_AXES] = 0.0
    for _ in range(CANDIDATES):
        step, place = np.unravel_index(int(np.argmax(excess)), excess.shape)
        if excess[step, place] <= 0:
            return
        yield float(angles[step]), float((place - reach + 0.5) * factor)
        near = np.abs((np.arange(ANGLES) - step + ANGLES // 2) % ANGLES - ANGLES // 2) <= APART
        excess[near, max(place - APART, 0) : place + APART + 1] = 0.0


def _counted(x: NDArray[np.intp], y: NDArray[np.intp], angle: float, reach: int) -> NDArray[np.intp]:
    """How many blocks lie at each distance from the corner, from -reach to reach."""
    places = np.floor((x + 0.5) * np.cos(angle) + (y + 0.5) * np.sin(angle)).astype(int) + reach
    return np.bincount(places, minlength=2 * reach + 1)


def _followed(heights: Floats, angle: float, offset: float) -> Line | None:
    """Turn and shift a line to where it is brightest, and see how far it goes and how wide it is."""
    strips = [_strip(heights, angle + turn, offset) for turn in TURNS]
    values, x, y, across = max(strips, key=lambda strip: _peak(strip[0])[1])
    shift = _peak(values)[0]
    values, x, y = np.roll(values, -shift, axis=0), x + shift * across[0], y + shift * across[1]
    run = _run(values)
    if run is None or np.hypot(x[run[-1]] - x[run[0]], y[run[-1]] - y[run[0]]) < LEAST_SHARE * min(heights.shape):
        return None
    width = _width(values[:, run])
    first, last = max(run[0] - SEGMENT, 0), min(run[-1] + SEGMENT, len(x) - 1)  # it may end within the next part
    return None if width is None else (float(x[first]), float(y[first]), float(x[last]), float(y[last]), width)


def _strip(heights: Floats, angle: float, offset: float) -> tuple[Floats, Floats, Floats, tuple[float, float]]:
    """Pixels on a line and beside it, (2 REACH + 1, N), the N positions on the line, and the direction across it."""
    height, width = heights.shape
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    steps = np.arange(-height - width, height + width)
    x, y = offset * cos - steps * sin - 0.5, offset * sin + steps * cos - 0.5
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = x[inside], y[inside]
    beside = np.arange(-REACH, REACH + 1)[:, None]
    rows, columns = np.rint(y + beside * sin).astype(int), np.rint(x + beside * cos).astype(int)
    off = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    values = heights[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return np.where(off, 0.0, values), x, y, (cos, sin)


def _peak(values: Floats) -> tuple[int, float]:
    """How far beside the line it is brightest, and how bright it is there."""
    profile = np.minimum(values, CEILING).mean(axis=1) if values.shape[1] >= SEGMENT else np.zeros(2 * REACH + 1)
    smooth = np.convolve(profile, np.ones(3) / 3, mode="same")[REACH - BESIDE : REACH + BESIDE + 1]
    place = int(np.argmax(smooth))
    return place - BESIDE, float(smooth[place])


def _run(values: Floats) -> NDArray[np.intp] | None:
    """The longest part of a line (2 REACH + 1, N) that is seen, gaps of one segment left out of account."""
    if values.shape[1] < SEGMENT:
        return None
    parts = np.array_split(np.arange(values.shape[1]), values.shape[1] // SEGMENT)
    seen = np.array([_is_seen(values[:, part]) for part in parts])
    seen[1:-1] |= seen[:-2] & seen[2:]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(int), [0]])))
    if not len(edges):
        return None
    longest = int(np.argmax(edges[1::2] - edges[::2]))
    return np.concatenate(parts[edges[2 * longest] : edges[2 * longest + 1]])


def _is_seen(values: Floats) -> bool:
    """Whether the line's three middle rows are over what is beside them, by quartiles: a star lifts a few pixels."""
    beside = values[np.abs(np.arange(-REACH, REACH + 1)) >= BESIDE]
    low, middle = np.quantile(beside, [0.25, 0.5])
    error = QUARTILE * (middle - low) / np.sqrt(values.shape[1])  # of one row: neighbours may be correlated
    return bool(np.quantile(values[REACH - 1 : REACH + 2], 0.25) - low > max(SEEN * error, LEAST_HEIGHT))


def _width(values: Floats) -> float | None:
    """How wide a line (2 REACH + 1, N) is: up to the first rows on both sides without it; None if it is no line."""
    profile = np.median(values, axis=1)
    profile = profile - np.median(np.concatenate([profile[: REACH - BESIDE + 1], profile[REACH + BESIDE :]]))
    dark = [side for side in range(1, BESIDE) if max(profile[REACH - side], profile[REACH + side]) < LEAST_HEIGHT]
    return 2 * (dark[0] + BLUR) if dark else None


def without_trails(truth: Truth, hidden: NDArray[np.bool_], trails: Sequence[Line]) -> Truth:
    """Take the rows out of a truth that list a trail as if it were a source.

    Parameters
    ----------
    truth : Truth
        M sources.
    hidden : ndarray, shape (H, W), bool
        Where the trails are.
    trails : sequence of (x0, y0, x1, y1, width)
        The same.

    Returns
    -------
    Truth
        Without those whose position is on a trail and whose box is much wider than it.
    """
    x, y = truth.centres
    height, width = hidden.shape
    rows, columns = np.clip(np.rint(y).astype(int), 0, height - 1), np.clip(np.rint(x).astype(int), 0, width - 1)
    sides = (truth.boxes[:, 2:] - truth.boxes[:, :2]).max(axis=1)
    keep = ~(hidden[rows, columns] & (sides > LARGEST_BOX * max(trail[4] for trail in trails)))
    return replace(
        truth,
        boxes=truth.boxes[keep],
        ignored=truth.ignored[keep],
        brightness=truth.brightness[keep],
        listed=int(keep[: truth.listed].sum()),
        positions=(x[keep], y[keep]),
        kinds=None if truth.kinds is None else tuple(np.array(truth.kinds, object)[keep]),
    )
