"""Single sources on pixels: noiseless stamps of unit flux, their observed shapes, and what flux gives which SNR."""

from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from training.scenes.optics import Optics

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
PHASES = 8  # sub-pixel positions a source may take along each axis
COMET_SIDE = 161  # pixels
LARGE, WIDE, WIDEST = 12.0, 5.0, 400.0  # galaxies of a larger radius get stamps that reach out to so many radii, pixels
Floats = NDArray[np.float64]
Phase = NDArray[np.int64] | tuple[int, int]


@dataclass(frozen=True)
class Stamp:
    """A noiseless source of unit flux and its observed shape.

    Attributes
    ----------
    pixels : ndarray, shape (S, S), float32
        S odd; sums to the share of the light inside.
    moments : (float, float, float)
        Adaptive second moments xx, xy, yy, in pixels squared.
    """

    pixels: NDArray[np.float32]
    moments: tuple[float, float, float]

    @property
    def fwhm(self) -> float:
        """Geometric mean of the FWHM along both axes, in pixels."""
        return fwhm_of(self.moments)


class StarStamps:
    """Stars at every sub-pixel phase, drawn when first asked for."""

    def __init__(self, optics: Optics) -> None:
        self._optics = optics
        self._stamps: dict[tuple[int, int], Stamp] = {}

    def at(self, column_phase: int, row_phase: int) -> Stamp:
        """The stamp of a star that lies `phase / 8 - 1/2` pixels from the centre of its middle pixel."""
        key = (int(column_phase), int(row_phase))
        if key not in self._stamps:
            self._stamps[key] = draw_stamp(self._optics, offset_of(key))
        return self._stamps[key]


def offset_of(phase: Phase) -> Floats:
    """Distance of a source from the centre of its middle pixel, in pixels, shape (2,)."""
    return np.asarray(phase) / PHASES - 0.5


def draw_stamp(optics: Optics, offset: Floats, side: int | None = None) -> Stamp:
    """Draw what the optics make of a profile, `offset` pixels from the centre of the middle pixel; measure its shape.

    Parameters
    ----------
    optics : Optics
        The profile.
    offset : ndarray, shape (2,)
        Along x and y.
    side : int or None
        Odd; by default such that little of the light is lost, 17 to 201.
    """
    profile = optics.profile
    side = side or 2 * int(np.clip(profile.getGoodImageSize(1.0) // 2, 8, 100)) + 1
    picture = profile.drawImage(
        nx=side, ny=side, scale=1.0, offset=tuple(offset), dtype=np.float32, method=optics.method
    )
    return Stamp(picture.array, moments_of(picture.array))


def moments_of(pixels: NDArray[np.float32]) -> tuple[float, float, float]:
    """Adaptive second moments xx, xy, yy of a stamp (S, S), in pixels squared."""
    found = galsim.hsm.FindAdaptiveMom(galsim.Image(pixels), strict=False)
    if found.error_message:
        sigma = np.sqrt(1 / (4 * np.pi * np.square(pixels).sum()))  # of a Gaussian as sharp
        return sigma**2, 0.0, sigma**2
    e1, e2 = found.observed_shape.e1, found.observed_shape.e2
    scale = found.moments_sigma**2 / np.sqrt(max(1 - e1 * e1 - e2 * e2, 1e-6))
    return scale * (1 + e1), scale * e2, scale * (1 - e1)


def fwhm_of(moments: tuple[float, float, float]) -> float:
    """Geometric mean of the FWHM along both axes of second moments xx, xy, yy, in pixels."""
    xx, xy, yy = moments
    return float(FWHM_PER_SIGMA * (xx * yy - xy * xy) ** 0.25)


def draw_galaxy(
    optics: Optics,
    phase: Phase,
    radius: float,
    steepness: float,
    ratio: float,
    angle: float,
    *,
    reach: float | None = None,
) -> Stamp:
    """Draw a galaxy: a Spergel profile, inclined, seen through the optics.

    Parameters
    ----------
    optics : Optics
        The point spread function.
    phase : pair of int
        Where between the pixels.
    radius : float
        Half-light radius, in pixels.
    steepness : float
        Spergel's nu: from -0.5 (spheroidal) to 0.8 (disc-like).
    ratio, angle : float
        Minor over major axis; of the major axis, in radians counter-clockwise from x.
    reach : float or None
        Of the stamp of a large one, to each side, in pixels; by default five radii.
    """
    profile = galsim.Spergel(nu=steepness, half_light_radius=radius).shear(q=ratio, beta=angle * galsim.radians)
    side = 2 * int(reach or min(WIDE * radius, WIDEST)) + 1 if radius > LARGE else None
    return draw_stamp(optics.through(profile), offset_of(phase), side)


def draw_comet(optics: Optics, phase: Phase, coma: float, tail: float, angle: float) -> Stamp:
    """Draw a comet: a nucleus, a coma whose brightness falls as 1/r out to `coma` pixels, and a tail.

    Parameters
    ----------
    optics : Optics
        The point spread function.
    phase : pair of int
        Where between the pixels the nucleus is.
    coma, tail : float
        Scales of the coma and of the tail, in pixels.
    angle : float
        Of the tail, in radians counter-clockwise from x.
    """
    middle = COMET_SIDE // 2
    row, column = np.mgrid[-middle : middle + 1, -middle : middle + 1].astype(np.float64)
    distance = np.hypot(column, row)
    along = column * np.cos(angle) + row * np.sin(angle)
    across = row * np.cos(angle) - column * np.sin(angle)
    halo = np.exp(-distance / coma) / (distance + 0.5)
    width = 0.3 * coma + 0.15 * np.clip(along, 0, None)
    dust = np.where(along > 0, np.exp(-along / tail - (across / width) ** 2 / 2) / width, 0.0)
    nucleus = (distance == 0).astype(np.float64)
    fading = np.clip(1 - (distance / middle) ** 2, 0, None) ** 2  # to nothing at the border of the stamp
    halo, dust = halo * fading, dust * fading
    light = 0.25 * nucleus + 0.45 * halo / halo.sum() + 0.3 * dust / dust.sum()
    pixels = fftconvolve(light, draw_stamp(optics, offset_of(phase)).pixels, mode="same").astype(np.float32)
    return Stamp(pixels, moments_of(pixels))


def noise_boost(stamp: NDArray[np.float32], smoothing: float) -> float:
    """How much more a matched filter sees of noise smoothed by a Gaussian of `smoothing` pixels than of white noise."""
    if smoothing == 0:
        return 1.0
    smooth = gaussian_filter(np.pad(stamp, 4), smoothing)
    return float(np.sqrt(np.square(smooth).sum() / np.square(stamp).sum()))


def flux_of_snr(snr: float, stamp: NDArray[np.float32], noise: float, gain: float, boost: float) -> float:
    """The flux, in ADU, of a source that a matched filter sees at `snr`, its own photon noise counted.

    Parameters
    ----------
    snr : float
        Flux over its standard deviation.
    stamp : ndarray, shape (S, S)
        The source, of unit flux.
    noise : float
        Standard deviation of an empty pixel, in ADU.
    gain : float
        Electrons per ADU.
    boost : float
        What a matched filter sees of the noise over what it would see were it white.
    """
    power = float(np.square(stamp, dtype=np.float64).sum())
    empty = (boost * noise) ** 2 / power
    own = float(np.power(stamp, 3, dtype=np.float64).sum()) / power**2 / gain
    return float((snr * snr * own + np.sqrt((snr * snr * own) ** 2 + 4 * snr * snr * empty)) / 2)


def snr_of_flux(flux: float, stamp: NDArray[np.float32], noise: float, gain: float, boost: float) -> float:
    """The signal to noise of a source of `flux` ADU: `flux_of_snr` the other way round."""
    power = float(np.square(stamp, dtype=np.float64).sum())
    own = float(np.power(stamp, 3, dtype=np.float64).sum()) / power**2 / gain
    return flux / float(np.sqrt((boost * noise) ** 2 / power + max(flux * own, 0.0)))


def add_stamp(light: Floats, stamp: NDArray[np.float32], flux: float, column: int, row: int, negligible: float) -> None:
    """Add a stamp centred on a pixel, cropped where it is negligible and at the frame's border."""
    middle, flux = len(stamp) // 2, np.float64(flux)  # a plain float would leave the light in the stamp's float32
    profile = flux * stamp.max(axis=0)
    bright = np.flatnonzero(profile > negligible)
    reach = int(np.clip(np.abs(bright - middle).max() + 1 if len(bright) else 3, 3, middle))
    top, left = max(row - reach, 0), max(column - reach, 0)
    bottom, right = min(row + reach + 1, len(light)), min(column + reach + 1, len(light))
    if bottom <= top or right <= left:  # wholly off the frame
        return
    shift_row, shift_column = middle - row, middle - column
    cut = stamp[top + shift_row : bottom + shift_row, left + shift_column : right + shift_column]
    light[top:bottom, left:right] += flux * cut
