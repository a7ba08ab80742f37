"""A frame as a picture with boxes drawn on it, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.sky import Sky

BLACK, WHITE = -2.0, 40.0  # standard deviations from the sky
GREYS = 56  # levels of a picture with marks: enough for the eye, and a third of the bytes of all 256
THICK = 2  # pixels of a line, so that it survives a picture shown at half its size
LEAST_MARK = 4.0  # half side of the smallest box drawn, in pixels of the picture
DASHES = {"dashed": (6, 4), "dotted": (3, 3)}  # pixels drawn, pixels left out


def stretched(frame: Frame, sky: Sky) -> NDArray[np.uint8]:
    """Grey levels, shape (H, W): asinh between 2 standard deviations under the sky and 40 above; masked is black."""
    level, noise = sky.upsampled()
    return np.asarray(255 * _stretch((frame.pixels - level) / noise), np.uint8)


def draw_overlay(frame: Frame, sky: Sky, boxes: Floats, path: Path, *, colour: str = "#39d353", zoom: int = 1) -> None:
    """Write a PNG of the frame with boxes on it, the first row at the bottom as FITS viewers show it.

    Parameters
    ----------
    frame : Frame
        The picture.
    sky : Sky
        Its sky, which sets black and white.
    boxes : ndarray, shape (N, 4)
        Edge coordinates.
    path : Path
        Of the PNG.
    colour : str
        Of the boxes.
    zoom : int
        Screen pixels a frame pixel.
    """
    height, width = frame.shape
    picture = Image.fromarray(stretched(frame, sky)[::-1]).convert("RGB")
    picture = picture.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    for x_min, y_min, x_max, y_max in boxes * zoom:
        pen.rectangle((x_min, height * zoom - y_max, x_max, height * zoom - y_min), outline=colour)
    picture.save(path)


@dataclass(frozen=True, eq=False)
class Marks:
    """Boxes of one kind, and how they are drawn.

    Attributes
    ----------
    boxes : ndarray, shape (N, 4)
        Edge coordinates, in the frame's pixels.
    colour : str
        `#rrggbb`.
    line : {"solid", "dashed", "dotted", "round"}
        Tells the kinds apart where colours do not; "round" is an ellipse in the box.
    """

    boxes: Floats
    colour: str
    line: Literal["solid", "dashed", "dotted", "round"] = "solid"


def draw_marks(frame: Frame, sky: Sky, marks: Sequence[Marks], *, least: int = 800, most: int = 2000) -> Image.Image:
    """Draw a frame with boxes of several kinds, the first row at the bottom, at a size for a page.

    Parameters
    ----------
    frame : Frame
        The picture.
    sky : Sky
        Its sky, which sets black and white.
    marks : sequence of Marks
        The last on top.
    least, most : int
        The longer side of the picture, in pixels: a small frame is magnified towards the one, a large frame is
        averaged down below the other, both by whole numbers.

    Returns
    -------
    Image
        With a palette, so that its PNG is small.
    """
    side = max(frame.shape)
    shrink, zoom = -(-side // most), max(least // side, 1)
    grey = _stretch(_deviations(frame, sky, shrink))[::-1]
    picture = Image.fromarray(np.asarray((GREYS - 1) * grey, np.uint8), "P")
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    shades = [round(255 * level / (GREYS - 1)) for level in range(GREYS) for _ in range(3)]
    picture.putpalette(shades + [part for kind in marks for part in ImageColor.getrgb(kind.colour)])
    pen = ImageDraw.Draw(picture)
    for index, kind in enumerate(marks, start=GREYS):
        for box in _on_picture(kind.boxes * zoom / shrink, picture):
            _draw(pen, box, index, kind.line)
    return picture


def _stretch(deviations: Floats) -> Floats:
    """Asinh of standard deviations from the sky, brought to 0..1."""
    low, high = np.arcsinh(BLACK), np.arcsinh(WHITE)
    shown = np.clip(np.nan_to_num(deviations, nan=BLACK), BLACK, WHITE)
    return np.asarray((np.arcsinh(shown) - low) / (high - low))


def _deviations(frame: Frame, sky: Sky, shrink: int) -> Floats:
    """Standard deviations from the sky of the means of `shrink` x `shrink` pixels; NaN where all are masked."""
    height, width = frame.shape
    starts = np.arange(0, height, shrink), np.arange(0, width, shrink)
    sums, amount = (
        np.add.reduceat(np.add.reduceat(plane, starts[0], axis=0), starts[1], axis=1)
        for plane in (np.nan_to_num(frame.pixels, nan=0.0), (~frame.mask).astype(np.float32))
    )
    rows, columns = sums.shape
    level, noise = (  # the small map of the sky, without making one of the frame's size
        np.asarray(
            Image.fromarray(plane).resize(
                (columns, rows), Image.Resampling.BILINEAR, (0, 0, width / sky.mesh, height / sky.mesh)
            )
        )
        for plane in (sky.level, sky.noise)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums / amount - level) / noise)


def _on_picture(boxes: Floats, picture: Image.Image) -> list[tuple[float, float, float, float]]:
    """Boxes turned upside down as the picture is, none too small to be seen, none far outside."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, LEAST_MARK)
    centre[:, 1] = picture.height - centre[:, 1]
    limits = np.array(picture.size) + THICK
    corners = np.concatenate([centre - half, centre + half], axis=1)
    return [tuple(box) for box in np.clip(corners, -THICK, np.tile(limits, 2)).tolist()]


def _draw(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: int, line: str) -> None:
    if line == "solid":
        pen.rectangle(box, outline=colour, width=THICK)
    elif line == "round":
        pen.ellipse(box, outline=colour, width=THICK)
    else:
        left, top, right, bottom = box
        drawn, gap = DASHES[line]
        for x in np.arange(left, right, drawn + gap):
            for y in (top, bottom):
                pen.line((x, y, min(x + drawn - 1, right), y), fill=colour, width=THICK)
        for y in np.arange(top, bottom, drawn + gap):
            for x in (left, right):
                pen.line((x, y, x, min(y + drawn - 1, bottom)), fill=colour, width=THICK)
