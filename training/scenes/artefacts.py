"""What is on a frame and is no source: gradients, fringes, cosmic rays, hot pixels, bad columns, bleeding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.scenes.ranges import Floats


def sky_background(shape: tuple[int, ...], level: float, rng: np.random.Generator) -> Floats:
    """A sky of mean `level` ADU with a gradient, and at times vignetting, fringes or an amplifier step."""
    row, column = (axis - 0.5 for axis in np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j])
    angle, strength = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.1))
    sky = 1 + strength * (np.cos(angle) * column + np.sin(angle) * row)
    if rng.random() < 0.3:
        sky *= 1 - rng.uniform(0, 0.4) * (row**2 + column**2)
    if rng.random() < 0.15:
        wave = rng.uniform(5, 20) * (row + rng.uniform(-1, 1) * column + 0.3 * np.sin(6 * column))
        sky += rng.uniform(0.002, 0.02) * np.sin(2 * np.pi * wave)
    if rng.random() < 0.15:
        sky += rng.uniform(0.005, 0.05) * (column > rng.uniform(-0.4, 0.4))
    return np.asarray(level * sky)


def fringe_pattern(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Interference of the night sky's lines in a thin detector, as a share of the sky, shape (H, W)."""
    row, column = (axis - 0.5 for axis in np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j])
    pattern = np.zeros(shape)
    for _ in range(rng.integers(1, 4)):  # lines of the sky
        thickness = sum(
            rng.normal(0, 1.0) * np.sin(np.pi * (rng.uniform(1, 3) * row + rng.uniform(-3, 3) * column + rng.random()))
            for _ in range(4)
        )
        tilt = rng.uniform(-4, 4) * row + rng.uniform(-4, 4) * column
        pattern += rng.uniform(0.3, 1.0) * np.sin(2 * np.pi * (rng.uniform(1, 4) * thickness + tilt))
    return np.asarray(rng.uniform(0.005, 0.04) * pattern)


def add_cosmic_rays(pixels: Floats, rng: np.random.Generator, mean: float, noise: float) -> None:
    """Sharp points and tracks that no optics have touched; `mean` of them, heights in units of `noise`."""
    height, width = pixels.shape
    for _ in range(rng.poisson(rng.uniform(0, 2) * mean)):
        length = rng.exponential(4.0) if rng.random() < 0.7 else 0.0
        angle, charge = rng.uniform(0, np.pi), noise * np.exp(rng.uniform(np.log(5), np.log(2000)))
        steps = np.arange(0, length + 0.5, 0.5)
        columns = (rng.uniform(0, width) + steps * np.cos(angle)).astype(int)
        rows = (rng.uniform(0, height) + steps * np.sin(angle)).astype(int)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        share = charge / len(steps) ** 0.5 * rng.uniform(0.3, 1.0, inside.sum())
        np.add.at(pixels, (rows[inside], columns[inside]), share / 2)


def add_hot_pixels(pixels: Floats, rng: np.random.Generator, mean: float, noise: float) -> None:
    """Single pixels far above, now and then below, their neighbours."""
    count = rng.poisson(rng.uniform(0, 2) * mean)
    rows, columns = rng.integers(0, pixels.shape[0], count), rng.integers(0, pixels.shape[1], count)
    heights = noise * np.exp(rng.uniform(np.log(4), np.log(1000), count))
    pixels[rows, columns] += np.where(rng.random(count) < 0.9, heights, -0.1 * heights)


def add_bad_columns(pixels: Floats, rng: np.random.Generator, mean: float, noise: float) -> None:
    """Columns, or parts of one, that are too bright or too dark."""
    height, width = pixels.shape
    for _ in range(rng.poisson(mean)):
        column, start = rng.integers(0, width), rng.integers(0, height)
        end = height if rng.random() < 0.5 else min(height, start + rng.integers(10, 200))
        pixels[start:end, column] += noise * rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(2), np.log(100)))


def bleed(pixels: Floats, saturation: float) -> None:
    """Let the charge above saturation run along its column, up and down, then clip; of a transpose, along its row."""
    overflow = np.clip(pixels - saturation, 0, None).sum(axis=0) / saturation
    for column in np.flatnonzero(overflow >= 1):
        middle = int(pixels[:, column].argmax())
        reach = int(min(overflow[column] / 2, 150))
        pixels[max(middle - reach, 0) : middle + reach + 1, column] = saturation
    np.clip(pixels, None, saturation, out=pixels)


def trail_mask(trails: Sequence[Sequence[float]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Where trails hide what is under them.

    Parameters
    ----------
    trails : sequence of (x0, y0, x1, y1, width)
        0-based pixel centres of the ends, and width, in pixels, as in a truth's `meta["trails"]`.
    shape : (int, int)
        Height and width of the frame.

    Returns
    -------
    ndarray, shape (H, W), bool
        True within half the width of a line.
    """
    mask = np.zeros(shape, bool)
    row, column = np.ogrid[: shape[0], : shape[1]]
    for x0, y0, x1, y1, width in trails:
        dx, dy = x1 - x0, y1 - y0
        length2 = max(dx * dx + dy * dy, 1e-12)
        along = np.clip(((column - x0) * dx + (row - y0) * dy) / length2, 0, 1)
        mask |= np.hypot(column - x0 - along * dx, row - y0 - along * dy) <= width / 2
    return mask
