"""A frame as a picture with boxes drawn on it, for people to look at."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lynceus.detections import Floats
from lynceus.frame import Frame
from lynceus.sky import Sky

BLACK, WHITE = -2.0, 40.0  # standard deviations from the sky


def stretched(frame: Frame, sky: Sky) -> NDArray[np.uint8]:
    """Grey levels, shape (H, W): asinh between 2 standard deviations under the sky and 40 above; masked is black."""
    level, noise = sky.upsampled()
    deviations = np.nan_to_num((frame.pixels - level) / noise, nan=BLACK)
    low, high = np.arcsinh(BLACK), np.arcsinh(WHITE)
    grey = (np.arcsinh(np.clip(deviations, BLACK, WHITE)) - low) / (high - low)
    return np.asarray(255 * grey, np.uint8)


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
