"""Detections on a trail are pieces of it: they are left out, and the frame gets one warning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.sky import Sky
from lynceus.trails import Trail, place_on

PLACES, LEAST_PLACES = (
    16,
    6,
)  # on either side of a detection along the trail that it is compared with, and how few will do
SPACING = (8.0, 32.0)  # pixels between them: the side of its box, within these
CLEAR, TALLER = 5.0, 0.3  # how a star stands out of a trail: by the scatter along it, and by a share of its height
ON = 0.35  # widths of a trail to each side of its middle, in which its pieces lie
CORE = 1  # pixels to each side of a detection's middle that are its core; as far may the middle be off


@dataclass(frozen=True, eq=False)
class OnTrail:
    """A trail, and the detections that were left out because they are pieces of it."""

    trail: Trail
    left_out: Detections

    def warning(self, min_score: float) -> str:
        """What a user is told, who asks for detections from this score on."""
        x0, y0, x1, y1, width = (round(float(value)) + 0 for value in self.trail)
        count = int((self.left_out.scores >= min_score).sum())
        pieces = "1 detection on it was" if count == 1 else f"{count} detections on it were"
        return f"a trail crosses the frame from ({x0}, {y0}) to ({x1}, {y1}), {width} px wide; {pieces} left out"


def leave_out(
    detections: Detections, trails: Sequence[Trail], frame: Frame, sky: Sky
) -> tuple[Detections, tuple[OnTrail, ...]]:
    """Take the pieces of trails out of a list.

    Parameters
    ----------
    detections : Detections
        N of them, of one frame.
    trails : sequence of Trail
        Of the same frame.
    frame, sky : Frame, Sky
        The same.

    Returns
    -------
    kept : Detections
        Those whose middle is on no trail, and those that clearly stand out of the one they are on: stars and galaxies.
    left_out : tuple of OnTrail
        The others, one for each trail, in the order of `trails`; each detection is left out once.
    """
    left = np.zeros(len(detections), bool)
    noted = []
    for trail in trails:
        here = np.flatnonzero(_is_on(trail, detections) & ~left)
        pieces = here[~_stands_out(trail, detections[here], frame, sky)]
        left[pieces] = True
        noted.append(OnTrail(trail, detections[pieces]))
    return detections[~left], tuple(noted)


def _is_on(trail: Trail, detections: Detections) -> NDArray[np.bool_]:
    """Whose middle lies on a trail, and not in its wings, (N,)."""
    along, across = place_on(trail, *detections.centres)
    half = ON * trail.width
    return np.asarray((np.abs(across) <= half) & (along >= -half) & (along <= trail.length + half))


def _stands_out(trail: Trail, detections: Detections, frame: Frame, sky: Sky) -> NDArray[np.bool_]:
    """Which detections on a trail are clearly brighter than the trail is around them, (N,).

    Each is compared with places as far from the trail's middle as it is itself, where the same stars' halos and the
    trail's own unevenness, noise and sampling are seen.
    """
    x, y = detections.centres
    cos, sin = trail.direction
    boxes = detections.boxes
    spacing = np.clip((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), *SPACING)
    steps = np.concatenate([np.arange(-PLACES, 0), np.arange(1, PLACES + 1)])
    away = spacing[:, None] * steps  # (N, 2 PLACES)
    along = place_on(trail, x, y)[0][:, None] + away
    there = _core(frame, x[:, None] + away * cos, y[:, None] + away * sin)
    there[(along < 0) | (along > trail.length)] = np.nan
    own = _core(frame, x, y)
    enough = np.isfinite(there).sum(axis=1) >= LEAST_PLACES
    there[~enough] = np.inf  # it cannot be told, and is taken for a piece
    median = np.nanmedian(there, axis=1)
    with np.errstate(invalid="ignore"):
        scatter = 1.4826 * np.nanmedian(np.abs(there - median[:, None]), axis=1)
    shape = frame.shape
    rows, columns = (
        np.clip(np.rint(place), 0, side - 1).astype(int) for place, side in zip((y, x), shape, strict=True)
    )
    height = median - sky.level[rows // sky.mesh, columns // sky.mesh]
    return np.asarray(enough & (own - median > np.maximum(CLEAR * scatter, TALLER * height)))


def _core(frame: Frame, x: Floats, y: Floats) -> Floats:
    """The brightest mean of 3 x 3 pixels within a pixel of each place, in ADU; NaN off the frame and where masked."""
    height, width = frame.shape
    reach = 2 * CORE
    rows, columns = np.rint(y).astype(int), np.rint(x).astype(int)
    inside = (rows >= reach) & (rows < height - reach) & (columns >= reach) & (columns < width - reach)
    window = np.arange(-reach, reach + 1)
    rows, columns = (np.clip(place, reach, side - 1 - reach) for place, side in ((rows, height), (columns, width)))
    pixels = frame.pixels[rows[..., None, None] + window[:, None], columns[..., None, None] + window]
    sides = range(2 * CORE + 1)
    means = [
        pixels[..., row : row + 2 * CORE + 1, column : column + 2 * CORE + 1].mean(axis=(-1, -2), dtype=np.float64)
        for row in sides
        for column in sides
    ]
    return np.where(inside, np.max(means, axis=0), np.nan)
