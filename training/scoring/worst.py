"""The windows of frames where a detector does worst, drawn as they go by, so that no frame has to stay in memory."""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Detections, Floats
from lynceus.frame import Frame
from lynceus.matching import match_boxes
from lynceus.overlay import Marks, draw_marks
from lynceus.pages import GREEN, GREY, ORANGE, RED, png_uri
from lynceus.sky import Sky
from training.scoring.report import Window
from training.tiling.exposures import LabelledExposure

MOST = 6  # windows that are kept
SIDE = 512  # pixels of a window
LARGEST_PICTURE = 1024  # pixels
Bools = NDArray[np.bool_]
Line = Literal["solid", "dashed", "dotted", "round"]
LINES: dict[str, tuple[str, Line]] = {
    "ignored": (GREY, "dotted"),
    "matched": (GREEN, "solid"),
    "extra": (ORANGE, "round"),
    "missed": (RED, "dashed"),
}


class Worst:
    """Keeps the windows with most misses and extras.

    Parameters
    ----------
    most : int
        How many are kept, at most.
    side : int
        Of a window, in pixels; rounded to whole squares of the sky's map.
    """

    def __init__(self, most: int = MOST, side: int = SIDE) -> None:
        self.most, self.side = most, side
        self.windows: tuple[Window, ...] = ()

    def look(self, exposure: LabelledExposure, kept: Detections, ignored: Bools) -> None:
        """Take the windows of one frame that are among the worst so far.

        Parameters
        ----------
        exposure : LabelledExposure
            The frame, and its truth of M sources.
        kept : Detections
            What was found in it, from the threshold up.
        ignored : ndarray, shape (M,), bool
            Sources that do not count.
        """
        if not self.most:
            return
        fates = fates_of(kept, exposure.truth.boxes, ignored)
        for window in sorted(windows_of(exposure, fates, self.side), key=_faults, reverse=True):
            if len(self.windows) < self.most or _faults(window) > _faults(self.windows[-1]):
                drawn = window.model_copy(update={"picture": _picture(exposure, window, fates)})
                self.windows = tuple(sorted((*self.windows, drawn), key=_faults, reverse=True)[: self.most])


def fates_of(kept: Detections, sources: Floats, ignored: Bools) -> dict[str, Floats]:
    """Boxes by what became of them, each (K, 4), the most telling last: ignored, matched, extra, missed."""
    match = match_boxes(kept.boxes, kept.scores, sources, ignored)
    return {  # in the order of LINES
        "ignored": np.concatenate([sources[ignored], kept.boxes[match.absorbed]]),
        "matched": kept.boxes[match.right],
        "extra": kept.boxes[match.wrong],
        "missed": sources[~match.found & ~ignored],
    }


def windows_of(exposure: LabelledExposure, fates: dict[str, Floats], side: int) -> list[Window]:
    """The windows of a frame that have any fault, with their counts; a box is in the window that has its centre."""
    side = max(side // exposure.sky.mesh, 1) * exposure.sky.mesh
    rows, columns = (-(-pixels // side) for pixels in exposure.frame.shape)
    counts = {name: np.zeros((rows, columns), int) for name in fates}
    for name, boxes in fates.items():
        across, down = (np.clip((boxes[:, k] + boxes[:, k + 2]) / 2 // side, 0, None).astype(int) for k in (0, 1))
        np.add.at(counts[name], (np.minimum(down, rows - 1), np.minimum(across, columns - 1)), 1)
    return [
        Window(
            key=exposure.key,
            x=int(column) * side,
            y=int(row) * side,
            side=side,
            **{name: int(some[row, column]) for name, some in counts.items()},
        )
        for row, column in np.argwhere(counts["missed"] + counts["extra"])
    ]


def _faults(window: Window) -> int:
    return window.missed + window.extra


def _picture(exposure: LabelledExposure, window: Window, fates: dict[str, Floats]) -> str:
    x, y, side = window.x, window.y, window.side
    frame, sky = _cropped(exposure.frame, exposure.sky, x, y, side)
    marks = [Marks(boxes - np.array([x, y, x, y]), *LINES[name]) for name, boxes in fates.items()]
    height, width = frame.shape
    seen = [replace(one, boxes=one.boxes[_touching(one.boxes, width, height)]) for one in marks]
    return png_uri(draw_marks(frame, sky, seen, least=LARGEST_PICTURE, most=LARGEST_PICTURE))


def _cropped(frame: Frame, sky: Sky, x: int, y: int, side: int) -> tuple[Frame, Sky]:
    """A window of a frame and of its sky; it starts on a square of the sky's map."""
    pixels = np.ascontiguousarray(frame.pixels[y : y + side, x : x + side])
    squares = (
        slice(y // sky.mesh, (y + side) // sky.mesh),
        slice(x // sky.mesh, (x + side) // sky.mesh),
    )
    height, width = pixels.shape
    return Frame(pixels, frame.facts), Sky(sky.level[squares], sky.noise[squares], sky.mesh, (height, width))


def _touching(boxes: Floats, width: int, height: int) -> Bools:
    return np.asarray((boxes[:, 2:] > 0).all(axis=1) & (boxes[:, 0] < width) & (boxes[:, 1] < height))
