"""What the pixel values themselves tell: their step, their saturation, their Bayer phases, their overscan."""

import re
from math import inf

import numpy as np
from numpy.typing import NDArray

from lynceus.detections import Floats

Pixels = NDArray[np.float32]

SAMPLE = 20_000  # pixels that stand for the frame
SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")
BAYER_PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
MAD_TO_SIGMA = 1.4826
PLATEAU_PIXELS = 10
PLATEAU_CONTRAST = 3.0  # times what the levels below lead to expect
PLATEAU_RANGE = 0.1  # of the values between sky and plateau, that the expectation is taken from
PLATEAU_LEVELS = 10  # at least so many steps
OUTLIERS = 0.1  # of the pixels on a plateau, that may lie above it: hot pixels, after a dark was subtracted
STRIP = 512  # rows looked at at once, so that no plane of marks is as large as the frame
TOP = 200_000  # of the brightest pixels, searched for a plateau


def usable(pixels: Pixels) -> bool:
    """Whether any pixel has a value. Pixels have shape (H, W), in ADU."""
    return bool(len(sample(pixels)) or np.isfinite(pixels).any())


def sample(pixels: Pixels, count: int = SAMPLE) -> Pixels:
    """Pick pixels that have a value, evenly over the frame.

    Parameters
    ----------
    pixels : ndarray, shape (H, W)
        ADU, NaN where masked.
    count : int
        About how many.

    Returns
    -------
    ndarray, shape (N,)
        All usable pixels where there are few.
    """
    picked = pixels.ravel()[:: _stride(pixels.size, count, pixels.shape[1])]
    values = picked[np.isfinite(picked)]
    if len(values) >= count // 10 or len(picked) == pixels.size:
        return values
    values = pixels[np.isfinite(pixels)]  # mostly masked: look at all of it
    return values[:: _stride(values.size, count, 1)]


def mask_outside(pixels: Pixels, section: str | None) -> list[str]:
    """Mask what lies outside the illuminated section, in place.

    Parameters
    ----------
    pixels : ndarray, shape (H, W)
        ADU.
    section : str or None
        `[x1:x2,y1:y2]`, 1-based and inclusive, either order.

    Returns
    -------
    list of str
        A warning where the section cannot be that of this frame: it is often left over from before
        trimming, or in the detector's coordinates.
    """
    if section is None:
        return []
    match = SECTION.fullmatch(section)
    if match is None:
        return [f"DATASEC {section[:40]!r} is not understood and was ignored"]
    left, right, bottom, top = (int(group) for group in match.groups())
    (left, right), (bottom, top) = sorted((left, right)), sorted((bottom, top))
    height, width = pixels.shape
    if left < 1 or bottom < 1 or right > width or top > height:
        return [f"DATASEC {section} does not fit a frame of {width} x {height} and was ignored"]
    pixels[: bottom - 1] = pixels[top:] = np.nan
    pixels[:, : left - 1] = pixels[:, right:] = np.nan
    return []


def find_step(pixels: Pixels) -> float:
    """Find the step between possible values of floating point pixels.

    Parameters
    ----------
    pixels : ndarray, shape (H, W)
        ADU, NaN where masked.

    Returns
    -------
    float
        In ADU; 0 where the values lie on no grid, or on none coarser than float32 itself.
    """
    levels = np.unique(sample(pixels)).astype(np.float64)
    if len(levels) < 3:
        return 0.0
    gaps = np.diff(levels)
    resolution = float(np.spacing(np.float32(np.abs(levels).max())))
    counts = np.rint(gaps / gaps.min())
    step = float((levels[-1] - levels[0]) / counts.sum())
    misfit = np.abs(levels - levels[0] - step * np.concatenate([[0.0], np.cumsum(counts)])).max()
    return step if step > 4 * resolution and misfit < 0.05 * step + resolution else 0.0


def clip_saturated(pixels: Pixels, stated: float | None, step: float) -> tuple[float | None, list[str]]:
    """Find the saturation level and clip the pixels to it, in place.

    Parameters
    ----------
    pixels : ndarray, shape (H, W)
        ADU, NaN where masked.
    stated : float or None
        The level in the header, in ADU.
    step : float
        Step between possible values, in ADU; 0 where they are continuous.

    Returns
    -------
    level : float or None
        In ADU: as stated, unless the sky itself lies above it; or that of a plateau at the top
        of the histogram, where many pixels have exactly one value and hardly any have more.
    warnings : list of str
        Where the level is not the stated one.
    """
    warnings: list[str] = []
    sky = float(np.median(sample(pixels)))
    highest = float(np.fmax.reduce(pixels, axis=None))
    if stated is not None and stated <= sky:
        warnings.append(f"the saturation level in the header, {stated:g}, lies below the sky and was ignored")
        stated = None
    if stated is None or stated > highest:
        plateau = _plateau(pixels, sky, highest, step)
        if plateau is not None:
            warnings.append(f"pixels pile up at {plateau:g}, which was taken as saturation")
            stated = plateau
    if stated is not None and stated < highest:
        level = np.float32(stated)
        np.minimum(pixels, level, out=pixels)  # NaN stays NaN
        stated = float(level)
    return stated, warnings


def equalise_bayer(
    pixels: Pixels, pattern: str | None, saturation: float | None, step: float
) -> tuple[float | None, float, list[str]]:
    """Bring the four phases of a Bayer mosaic to one sky level and one noise, in place.

    Parameters
    ----------
    pixels : ndarray, shape (H, W)
        ADU, NaN where masked, clipped at saturation.
    pattern : str or None
        Such as RGGB; anything else means that there is no mosaic.
    saturation : float or None
        In ADU.
    step : float
        Step between possible values, in ADU.

    Returns
    -------
    saturation : float or None
        After equalising: saturated pixels of all phases are set to this one level.
    step : float
        After equalising, the mean over the phases.
    warnings : list of str
        Says that fluxes are in equalised ADU.
    """
    if pattern is None or pattern.strip(" '\"").upper() not in BAYER_PATTERNS:
        return saturation, step, []
    phases = [pixels[row::2, column::2] for row in (0, 1) for column in (0, 1)]
    levels = [_level_and_noise(phase, step) for phase in phases]
    good = [(sky, noise) for sky, noise in levels if noise > 0]
    if not good:
        return saturation, step, ["the Bayer phases could not be equalised: they have no noise"]
    sky, noise = np.mean(good, axis=0)
    full = None if saturation is None else np.float32(saturation)
    ceiling = -inf  # the saturation level of the phase that is stretched most
    for phase, (own_sky, own_noise) in zip(phases, levels, strict=True):
        gain = noise / own_noise if own_noise > 0 else 1.0
        saturated = np.zeros(phase.shape, bool) if full is None else phase >= full
        phase -= np.float32(own_sky)
        phase *= np.float32(gain)
        phase += np.float32(sky)
        phase[saturated] = np.inf  # set to the common level below
        if full is not None:
            ceiling = max(ceiling, (float(full) - own_sky) * gain + sky)
    step *= float(np.mean([noise / own_noise for _, own_noise in good]))
    if full is not None:
        saturation = float(np.float32(ceiling))
        np.minimum(pixels, np.float32(ceiling), out=pixels)
    pixels[np.isinf(pixels)] = np.nan
    return saturation, step, [f"the phases of the Bayer pattern {pattern} were equalised; fluxes are in equalised ADU"]


def _plateau(pixels: Pixels, sky: float, highest: float, step: float) -> float | None:
    """Find the level at the top of the histogram where pixels pile up."""
    strips = [pixels[first : first + STRIP] for first in range(0, len(pixels), STRIP)]
    top = np.concatenate([strip[strip >= np.float32((sky + highest) / 2)] for strip in strips])
    values, counts = np.unique(top[:: max(1, len(top) // TOP)], return_counts=True)
    level = float(values[counts.argmax()])
    count = int(np.count_nonzero(top == np.float32(level)))
    above = int(np.count_nonzero(top > np.float32(level)))
    if count < PLATEAU_PIXELS or above > OUTLIERS * count:
        return None
    low = min(level - PLATEAU_RANGE * (level - sky), level - PLATEAU_LEVELS * step)
    below = sum(int(np.count_nonzero((strip >= np.float32(low)) & (strip < np.float32(level)))) for strip in strips)
    levels = max((level - low) / step, 1.0) if step > 0 else inf
    lowest = np.fmin.reduce(pixels, axis=None)
    two_valued = not any(
        ((strip > lowest) & (strip < np.float32(level))).any() for strip in strips
    )  # a mask, or constant
    return None if two_valued or count <= PLATEAU_CONTRAST * below / levels else level


def _level_and_noise(phase: Pixels, step: float) -> tuple[float, float]:
    """Median and standard deviation of the sky in one phase, sources clipped away."""
    values: Floats = sample(phase).astype(np.float64)
    if not len(values):
        return 0.0, 0.0
    level = float(np.median(values))
    # The MAD of whole numbers is a whole number: it says what to clip, not how large the noise is.
    spread = MAD_TO_SIGMA * max(float(np.median(np.abs(values - level))), step / 2)
    return level, float(values[np.abs(values - level) <= 4 * spread].std())


def _stride(size: int, count: int, width: int) -> int:
    """An odd step through the flattened pixels that does not run down a column."""
    stride = max(1, size // count) | 1
    return stride + 2 if stride > 1 and stride % width == 0 else stride
