"""Matched filters that know the optics: of a star at every place between the pixels, and of galaxies."""

from collections.abc import Sequence
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from training.scenarios.sight import Sight
from training.scenes.ranges import Floats
from training.scenes.scene import BRIGHT, BRIGHT_SIDE
from training.scenes.stamps import PHASES, Stamp, draw_stamp, noise_boost, snr_of_flux

BANK = 0.8, 1.9  # half-light radius of its smallest galaxy over the FWHM, and of each over the one before
TYPICAL = 0.3  # Spergel's nu of the galaxies in the bank
REACH = 2.5  # of a filter, in half-light radii
CORE = 1.5  # half side of the window that a star is fitted in, in FWHM
LEAST_SEEN = 1e-5  # of a filter's weight that must lie on sound pixels
HALO = 12.0  # half side of the window where the core is not sound, in FWHM


class Stars:
    """The point spread function, drawn when first asked for at a phase."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._stamps: dict[tuple[int, int, bool], Stamp] = {}
        middle = draw_stamp(sight.optics, np.zeros(2))
        self.fwhm = middle.fwhm
        self.half = max(int(np.ceil(CORE * self.fwhm)), 2)
        self._noise = float(np.sqrt(np.median(sight.variance)))

    def at(self, column: int, row: int, bright: bool = False) -> NDArray[np.float32]:
        """The stamp of a star at a place in steps of 1/8 px."""
        key = (column % PHASES, row % PHASES, bright)
        if key not in self._stamps:
            offset = np.array(key[:2]) / PHASES - 0.5
            self._stamps[key] = draw_stamp(self._sight.optics, offset, BRIGHT_SIDE if bright else None)
        return self._stamps[key].pixels

    def whole(self, column: int, row: int, flux: float) -> NDArray[np.float32]:
        """All of a star's light, of unit flux, with the halo that a bright one has."""
        stamp = self.at(column, row)
        snr = snr_of_flux(flux, stamp, self._noise, self._sight.detector.gain, 1.0)
        return stamp if snr < BRIGHT else self.at(column, row, bright=True)

    def gain(self, residual: Floats, weight: Floats, place: tuple[int, int], halo: bool) -> tuple[float, float]:
        """Flux of a star at a place over its error (as of white noise), and the flux; from its core or its halo."""
        column, row = place
        core = cropped(self.at(column, row, halo), int(HALO * self.fwhm) if halo else self.half)
        where, cut = window(core, column // PHASES, row // PHASES, residual.shape)
        weighted = cut * weight[where]
        power = float(np.vdot(weighted, cut))
        if power <= 0:
            return -np.inf, 0.0
        projected = float(np.vdot(weighted, residual[where]))
        return projected / np.sqrt(power), projected / power


@dataclass(frozen=True, eq=False)
class Filter:
    """A filter (S, S) of unit flux, and how much more it sees of the noise than were that white."""

    pixels: Floats
    boost: float


def filters(sight: Sight, fwhm: float) -> list[Filter]:
    """A star's filter, and those of round galaxies of ever larger radius."""
    middle = draw_stamp(sight.optics, np.zeros(2)).pixels
    stamps = [cropped(middle, int(5 * fwhm))]
    radius = BANK[0] * max(fwhm, 1.6)
    while radius < sight.largest:
        profile = galsim.Spergel(nu=TYPICAL, half_light_radius=radius)
        reach = REACH * radius + 1.5 * fwhm
        stamps.append(draw_stamp(sight.optics.through(profile), np.zeros(2), 2 * int(reach) + 1).pixels)
        radius *= BANK[1]
    return [Filter(np.asarray(one, np.float64), noise_boost(one, sight.detector.smoothing)) for one in stamps]


def best_of(bank: Sequence[Filter], residual: Floats, weight: Floats) -> Floats:
    """The highest SNR that any filter sees at every pixel, (H, W)."""
    widest = max(len(one.pixels) for one in bank)
    height, width = residual.shape
    shape = next_fast_len(height + widest, True), next_fast_len(width + widest, True)
    typical = float(np.median(weight[weight > 0])) if weight.any() else 1.0
    weighted, bare = rfft2(weight * residual, shape), rfft2(weight, shape)
    best = np.full(residual.shape, -np.inf)
    for one in bank:
        projected = _correlate(weighted, one.pixels, shape)[:height, :width]
        power = _correlate(bare, np.square(one.pixels), shape)[:height, :width]
        seen = power > LEAST_SEEN * typical * float(np.square(one.pixels).sum())
        snr = np.where(seen, projected / np.sqrt(np.where(seen, power, 1.0)), 0.0) / one.boost
        best = np.maximum(best, snr)
    return best


def _correlate(spectrum: NDArray[np.complex128], stamp: Floats, shape: tuple[int, int]) -> Floats:
    """Correlate a frame, transformed, with a stamp centred on each pixel."""
    middle = len(stamp) // 2
    padded = np.zeros(shape)
    padded[: len(stamp), : len(stamp)] = stamp
    kernel = rfft2(np.roll(padded, (-middle, -middle), (0, 1)))
    return np.asarray(irfft2(spectrum * kernel.conj(), shape), np.float64)


def cropped(stamp: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """The middle of a stamp, so many pixels to each side at most."""
    middle = len(stamp) // 2
    half = min(reach, middle)
    return stamp[middle - half : middle + half + 1, middle - half : middle + half + 1]


def flux_of(stamp: NDArray[np.float32], column: int, row: int, residual: Floats, weight: Floats) -> float:
    """The flux of a source of this stamp, centred on a pixel, that fits best; none is negative."""
    where, cut = window(stamp, column, row, residual.shape)
    weighted = cut * weight[where]
    power = float((weighted * cut).sum())
    return max(float((weighted * residual[where]).sum()) / power, 0.0) if power > 0 else 0.0


def window(
    stamp: NDArray[np.float32], column: int, row: int, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """Where a stamp centred on a pixel lies on a frame, and what of it does."""
    middle = len(stamp) // 2
    top, left = row - middle, column - middle
    first_row, first_column = max(top, 0), max(left, 0)
    last_row = max(min(top + len(stamp), shape[0]), first_row)
    last_column = max(min(left + len(stamp), shape[1]), first_column)
    cut = stamp[first_row - top : last_row - top, first_column - left : last_column - left]
    return (slice(first_row, last_row), slice(first_column, last_column)), cut
