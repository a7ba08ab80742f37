"""Frames made from a frame: with stars planted in it, and turned upside down about its sky.

What is planted is known to be there; what is found in a frame whose stars are holes is known to be nothing. Both
tell two versions apart where nobody has a catalogue. It needs no torch and no server.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from lynceus.detections import Floats
from lynceus.fits_file import Hdu, number, open_fits, quiet, value
from lynceus.fits_pixels import DTYPES, read_pixels
from lynceus.frame import Frame
from lynceus.reading import Limits
from lynceus.sky import Sky
from lynceus.spec import Spec

DEFECT = 10.0  # standard deviations below the sky that no noise reaches
UNKNOWN_SEEING = 3.0  # pixels, FWHM
NO_LIMITS = Limits()
STRUCTURE = ("XTENSION", "SIMPLE", "BITPIX", "NAXIS*", "PCOUNT", "GCOUNT", "EXTEND", "CHECKSUM", "DATASUM")
SCALING = ("BSCALE", "BZERO", "BLANK")
Addition = Callable[[Floats], Floats]  # of the pixels as they are, in ADU


class PlantSpec(Spec):
    """How stars are planted.

    Attributes
    ----------
    count : int
        Most stars in a frame; a crowded one has room for fewer.
    snr : (float, float)
        Least and greatest signal to noise of a matched filter; log-uniform between them.
    beta : float
        Of the Moffat profile; infinity would be a Gaussian.
    clearance : float
        Distance from whatever either version sees, and from pixels without a value, in FWHM.
    spacing : float
        Distance between planted stars, in FWHM.
    reach : float
        Radius of the stamp that is drawn, in FWHM.
    """

    count: int = Field(40, ge=0)
    snr: tuple[float, float] = (3.0, 30.0)
    beta: float = Field(3.5, gt=1)
    clearance: float = Field(3.0, gt=0)
    spacing: float = Field(6.0, gt=0)
    reach: float = Field(4.0, gt=0)


@dataclass(frozen=True, eq=False)
class Planted:
    """A frame with stars planted in it.

    Attributes
    ----------
    data : bytes
        The FITS file.
    x, y : ndarray, shape (N,)
        Where they are, 0-based pixel centres.
    snr : ndarray, shape (N,)
        Signal to noise of a matched filter.
    fwhm : float
        Of the stars, in pixels.
    """

    data: bytes
    x: Floats
    y: Floats
    snr: Floats
    fwhm: float

    def __len__(self) -> int:
        return len(self.x)


def plant(
    data: bytes, frame: Frame, sky: Sky, known: Floats, fwhm: float | None, spec: PlantSpec, seed: int
) -> Planted:
    """Add artificial stars to a frame, and leave everything else in the file as it is.

    Parameters
    ----------
    data : bytes
        The FITS file.
    frame : Frame
        As read from it.
    sky : Sky
        Of the frame.
    known : ndarray, shape (K, 2)
        Positions `x, y` to keep away from, 0-based pixel centres.
    fwhm : float or None
        Of point sources, in pixels.
    spec : PlantSpec
        How many, how bright, and where.
    seed : int
        The same seed plants the same stars.

    Returns
    -------
    Planted
        Possibly with no star at all, where there is no room.

    Raises
    ------
    LynceusError
        If the bytes cannot be read.

    Notes
    -----
    The flux is that of a star whose matched filter has the signal to noise drawn, over the noise of the sky around
    it and its own photons; those are drawn too where the header knows the gain. Where pixels are integers the light
    added is rounded to them.
    """
    rng = np.random.default_rng(seed)
    fwhm = fwhm if fwhm is not None and np.isfinite(fwhm) and fwhm > 0 else UNKNOWN_SEEING
    x, y = _places(frame, known, fwhm, spec, rng)
    low, high = spec.snr
    snr = low * (high / low) ** rng.random(len(x))
    light = _light(frame, sky, np.stack([x, y, snr], axis=1), fwhm, spec, rng)
    return Planted(added(data, frame, lambda pixels: light), x, y, snr, fwhm)


def inverted(data: bytes, frame: Frame, sky: Sky) -> bytes:
    """Mirror a frame about its sky: stars become holes, and the deepest dips of the noise its brightest peaks.

    Parameters
    ----------
    data : bytes
        The FITS file.
    frame : Frame
        As read from it.
    sky : Sky
        Of the frame.

    Returns
    -------
    bytes
        The same file with `2 * sky - pixel` in the frame, within the range of its numbers, no pixel saturated.

    Raises
    ------
    LynceusError
        If the bytes cannot be read.

    Notes
    -----
    Whatever is detected in it is false. It is a lower bound of the false detections in the frame itself, where the
    tails of photon noise, hot pixels, cosmic rays and trails are positive. Pixels so far below the sky that they are
    dead, and not noise, would be hot pixels upside down: they are put at the level of the sky.
    """
    level, noise = (plane.astype(np.float64) for plane in sky.upsampled())
    deepest = DEFECT * noise
    if frame.facts.saturation is not None:
        deepest = np.clip(frame.facts.saturation - frame.quantum - level, 0, deepest)
    return added(data, frame, lambda pixels: np.where(level - pixels > deepest, level - pixels, 2 * (level - pixels)))


def _places(
    frame: Frame, known: Floats, fwhm: float, spec: PlantSpec, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Positions inside the frame, apart from each other, from what is known and from pixels without a value."""
    height, width = frame.shape
    margin = spec.clearance * fwhm
    if min(height, width) <= 2 * margin:
        return np.zeros(0), np.zeros(0)
    tries = rng.uniform((margin, margin), (width - 1 - margin, height - 1 - margin), (20 * spec.count, 2))
    bad = np.argwhere(frame.mask | frame.saturated)[:, ::-1]
    for taken in (np.asarray(known, np.float64).reshape(-1, 2), bad.astype(np.float64)):
        if len(taken) and len(tries):
            tries = tries[cKDTree(taken).query(tries, distance_upper_bound=margin)[0] > margin]
    chosen: list[Floats] = []
    for place in tries:
        if len(chosen) == spec.count:
            break
        if all(np.hypot(*(place - other)) > spec.spacing * fwhm for other in chosen):
            chosen.append(place)
    places = np.array(chosen, np.float64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def _light(
    frame: Frame, sky: Sky, stars: Floats, fwhm: float, spec: PlantSpec, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The light of stars (`x, y, snr`), shape (H, W), in ADU."""
    light = np.zeros(frame.shape)
    noise, gain = sky.upsampled()[1], frame.facts.gain
    half = int(np.ceil(spec.reach * fwhm))
    core = fwhm / 2 / np.sqrt(2 ** (1 / spec.beta) - 1)
    for x, y, snr in stars:
        column, row = round(x), round(y)
        rows, columns = slice(max(row - half, 0), row + half + 1), slice(max(column - half, 0), column + half + 1)
        stamp = light[rows, columns]
        down, across = np.indices(stamp.shape)
        distance2 = (across + columns.start - x) ** 2 + (down + rows.start - y) ** 2
        profile = (1 + distance2 / core**2) ** -spec.beta
        profile /= profile.sum()
        star = _flux(snr, float(noise[row, column]), profile, gain) * profile
        stamp += rng.poisson(np.minimum(star * gain, 1e15)) / gain if gain else star
    return light


def _flux(snr: float, noise: float, profile: Floats, gain: float | None) -> float:
    """Flux in ADU at a signal to noise: flux^2 = snr^2 (area noise^2 + flux / gain), the area that of the profile."""
    photons = snr**2 / (2 * gain) if gain else 0.0
    return float(photons + np.hypot(photons, snr * noise / np.sqrt((profile**2).sum())))


def added(data: bytes, frame: Frame, addition: Addition) -> bytes:
    """Add something to the pixels of one HDU, and leave the rest of the file as it is.

    Parameters
    ----------
    data : bytes
        The FITS file, plain or tile-compressed.
    frame : Frame
        As read from it; says which HDU.
    addition : callable
        Gives what to add to pixels of shape (H, W), in ADU; 0 leaves a pixel untouched.

    Returns
    -------
    bytes
        The new file.
    """
    hdus = open_fits(data, NO_LIMITS)
    hdu = hdus[frame.hdu]
    return _rewritten(hdus[0], hdu, addition) if hdu.compressed else _in_place(hdu, addition, frame.quantum)


def _in_place(hdu: Hdu, addition: Addition, quantum: float) -> bytes:
    """Change the pixels and not one other byte; integers stay integers, within their range."""
    dtype = np.dtype(DTYPES[value(hdu.header, "BITPIX")])
    file = bytearray(hdu.file)
    stored = np.frombuffer(file, dtype, hdu.data_size // dtype.itemsize, hdu.data_start).reshape(hdu.plane_shape or ())
    scale, zero = number(hdu.header, "BSCALE") or 1.0, number(hdu.header, "BZERO") or 0.0
    with np.errstate(all="ignore"):
        before = stored.astype(np.float64)
        added = addition(before * scale + zero) / scale
        if quantum > 0 and dtype.kind == "f":  # whole numbers stored as others stay whole
            added = quantum / scale * np.rint(added * scale / quantum)
        after = before + added
    keep = ~np.isfinite(after) | (added == 0)
    if dtype.kind in "iu":
        blank = value(hdu.header, "BLANK")
        limits = np.iinfo(dtype)
        after = np.clip(np.rint(after), limits.min, limits.max)
        keep |= before == (blank if isinstance(blank, int) else np.nan)
    after = np.where(keep, 0, after).astype(dtype)
    stored[~keep] = after[~keep]
    return bytes(file)


def _rewritten(primary: Hdu, hdu: Hdu, addition: Addition) -> bytes:
    """A compressed image as a plain one behind its primary header, with the same keywords."""
    plane = read_pixels(hdu, NO_LIMITS)
    with quiet(), np.errstate(all="ignore"):
        header, first = plane.header.copy(), primary.header.copy()
        for keyword in (*STRUCTURE, *SCALING):
            header.remove(keyword, ignore_missing=True, remove_all=True)
        for keyword in STRUCTURE:
            first.remove(keyword, ignore_missing=True, remove_all=True)
        added = addition(plane.pixels.astype(np.float64))
        if plane.step:
            added = plane.step * np.rint(added / plane.step)
        output = BytesIO()
        image = fits.ImageHDU((plane.pixels + added).astype(np.float32), header)
        fits.HDUList([fits.PrimaryHDU(header=first), image]).writeto(output)
    return output.getvalue()
