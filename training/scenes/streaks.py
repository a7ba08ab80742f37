"""Light that is of no source, and comes through the optics: satellite trails, diffraction spikes, ghosts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from training.scenes.optics import Optics
from training.scenes.ranges import Floats

LEAST_SEEN = 0.5  # of the noise; a trail is as wide as it is brighter than this
SPIKED, GHOSTED = 200.0, 1000.0  # least SNR of stars with spikes, with ghosts
LONGEST = 400  # pixels, of a spike
Trail = list[float]  # x0, y0, x1, y1 (0-based pixel centres) and width, in pixels; see `trail_mask`


@dataclass(frozen=True)
class Glare:
    """A star that is bright enough for more than its own light: where, 0-based, its flux and peak in ADU, its SNR."""

    x: float
    y: float
    flux: float
    peak: float
    snr: float


def add_trails(light: Floats, optics: Optics, rng: np.random.Generator, mean: float, noise: float) -> list[Trail]:
    """Add satellite trails across the whole frame, as wide as the optics make them, and say where they are."""
    count = rng.poisson(mean)
    if not count:
        return []
    lines = np.zeros_like(light)
    diagonal = float(np.hypot(*light.shape))
    drawn = []
    for _ in range(count):
        steps = np.arange(-diagonal, diagonal, 0.25)
        angle = rng.uniform(0, np.pi)
        column, row = rng.uniform(0, light.shape[1]), rng.uniform(0, light.shape[0])
        columns = (column + steps * np.cos(angle)).astype(int)
        rows = (row + steps * np.sin(angle)).astype(int)
        inside = (columns >= 0) & (columns < light.shape[1]) & (rows >= 0) & (rows < light.shape[0])
        brightness = noise * np.exp(rng.uniform(np.log(0.5), np.log(100)))
        np.add.at(lines, (rows[inside], columns[inside]), brightness)
        drawn.append((column - 0.5, row - 0.5, angle, brightness))
    profile = optics.profile
    side = 2 * int(np.clip(profile.getGoodImageSize(1.0) // 2, 4, 40)) + 1
    kernel = profile.drawImage(nx=side, ny=side, scale=1.0, method=optics.method).array
    light += np.clip(fftconvolve(lines, kernel, mode="same"), 0, None)
    return [_trail(x, y, angle, 4 * value / noise, kernel, light.shape) for x, y, angle, value in drawn]


def _trail(
    x: float, y: float, angle: float, density: float, kernel: NDArray[np.float32], shape: tuple[int, ...]
) -> Trail:
    """A trail's ends at the frame's border, and the width over which it can be seen.

    `density` is its light on one pixel of length, in units of the noise.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    reaches = []
    for start, direction, side in ((x, cos, shape[1]), (y, sin, shape[0])):
        edges = (np.array([-0.5, side - 0.5]) - start) / (direction if abs(direction) > 1e-9 else 1e-9)
        reaches.append(np.sort(edges))
    first, last = max(reach[0] for reach in reaches), min(reach[1] for reach in reaches)
    middle = len(kernel) // 2
    down, across = np.indices(kernel.shape) - middle
    distance = np.abs(np.rint(down * cos - across * sin)).astype(int)
    sums = np.bincount(distance.ravel(), kernel.ravel())  # both sides together, but for the middle
    profile = np.append(sums[:1], sums[1:] / 2)
    seen = np.flatnonzero(density * profile > LEAST_SEEN)
    width = 2.0 * (int(seen.max()) if len(seen) else 0) + 3.0  # a pixel to each side for where it lies between them
    ends = (x + first * cos, y + first * sin, x + last * cos, y + last * sin)
    return [round(float(value), 3) for value in (*ends, width)]


def add_spikes(light: Floats, stars: Sequence[Glare], fwhm: float, noise: float, rng: np.random.Generator) -> None:
    """Add the spikes that the vanes of a telescope give its bright stars: as many as it has, all at the same angles."""
    angles = rng.uniform(0, np.pi) + np.pi / (arms := int(rng.integers(2, 4))) * np.arange(arms)
    strength, scale = rng.uniform(0.005, 0.03), 3 * fwhm
    width = max(0.4 * fwhm, 0.7)
    for star in stars:
        height = strength * star.peak
        if star.snr < SPIKED or height < 0.3 * noise:
            continue
        reach = int(min(scale * (np.sqrt(height / (0.3 * noise)) - 1), LONGEST)) + 1
        rows = slice(max(round(star.y) - reach, 0), round(star.y) + reach + 1)
        columns = slice(max(round(star.x) - reach, 0), round(star.x) + reach + 1)
        window = light[rows, columns]
        down, across = np.indices(window.shape) + np.array([rows.start - star.y, columns.start - star.x])[:, None, None]
        for angle in angles:
            along = across * np.cos(angle) + down * np.sin(angle)
            aside = down * np.cos(angle) - across * np.sin(angle)
            window += height / (1 + np.abs(along) / scale) ** 2 * np.exp(-((aside / width) ** 2) / 2)


def add_ghosts(light: Floats, stars: Sequence[Glare], rng: np.random.Generator) -> None:
    """Add the discs that reflections in the optics throw to the other side of the middle of the frame."""
    centre = (np.array(light.shape[::-1]) - 1) / 2
    scale, radius, share = rng.uniform(0.7, 1.2), rng.uniform(12, 50), np.exp(rng.uniform(np.log(1e-3), np.log(2e-2)))
    down, across = np.mgrid[-60:61, -60:61]
    distance = np.hypot(across, down)
    disc = gaussian_filter(((distance < radius) & (distance > 0.35 * radius)).astype(np.float64), 1.5)
    disc /= disc.sum()
    for star in stars:
        if star.snr < GHOSTED:
            continue
        column, row = np.rint(centre - scale * (np.array([star.x, star.y]) - centre)).astype(int)
        top, left = max(row - 60, 0), max(column - 60, 0)
        window = light[top : max(row + 61, 0), left : max(column + 61, 0)]
        cut = disc[top - row + 60 :, left - column + 60 :][: window.shape[0], : window.shape[1]]
        window += share * star.flux * cut
