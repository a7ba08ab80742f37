"""From light to numbers: sky, photons, read-out and quantisation, and how evenly a camera does all that."""

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from scipy.ndimage import gaussian_filter

from training.scenes.artefacts import fringe_pattern, sky_background
from training.scenes.ranges import Floats, SceneSpec, happens, log_uniform

COARSEST = (0.5, 4.0)  # steps of the numbers, in standard deviations of the noise


@dataclass(frozen=True)
class Detector:
    """The noise of one scene: sky in ADU, gain in electrons per ADU, read noise in electrons, step in ADU."""

    sky: float
    gain: float
    read_noise: float
    smoothing: float
    saturation: float
    step: float = 0.0

    @property
    def noise(self) -> float:
        """Standard deviation of an empty pixel before smoothing, in ADU."""
        return float(np.sqrt(self.sky / self.gain + (self.read_noise / self.gain) ** 2))


@dataclass(frozen=True, eq=False)
class Unevenness:
    """How pixels differ, (H, W) each: share of the light they see, fringes of the sky, read noise and offset."""

    response: Floats
    fringes: Floats
    read_noise: Floats
    offset: Floats


def draw_detector(rng: np.random.Generator, spec: SceneSpec) -> Detector:
    """Draw sky, gain and noise."""
    sky, gain = log_uniform(rng, spec.sky), rng.uniform(*spec.gain)
    smoothing = rng.uniform(*spec.smoothing) if rng.random() < spec.correlated else 0.0
    saturation = min(65535.0, sky + rng.uniform(2e4, 6e4))
    detector = Detector(sky, gain, rng.uniform(*spec.read_noise), smoothing, saturation)
    if not happens(rng, spec.quantised):
        return detector
    step = max(1.0, float(np.round(detector.noise * log_uniform(rng, COARSEST))))
    return Detector(sky, gain, detector.read_noise, smoothing, saturation, step)


def draw_unevenness(rng: np.random.Generator, spec: SceneSpec, detector: Detector) -> Unevenness | None:
    """Draw vignetting, fringes and amplifiers; None where a scene has none of them."""
    shape = (spec.size, spec.size)
    lost, fringed, several = (happens(rng, share) for share in (spec.vignetting, spec.fringes, spec.amplifiers))
    if not (lost or fringed or several):
        return None
    response, read_noise, offset = np.ones(shape), np.full(shape, detector.read_noise), np.zeros(shape)
    if lost:
        row, column = (axis - 0.5 for axis in np.mgrid[0 : 1 : shape[0] * 1j, 0 : 1 : shape[1] * 1j])
        response *= 1 - rng.uniform(0.1, 0.5) * 2 * (row**2 + column**2)
    fringes = fringe_pattern(shape, rng) if fringed else np.zeros(shape)
    if several:
        _add_amplifiers(response, read_noise, offset, detector, rng)
    return Unevenness(response, fringes, read_noise, offset)


def _add_amplifiers(
    response: Floats, read_noise: Floats, offset: Floats, detector: Detector, rng: np.random.Generator
) -> None:
    """Two halves or four quarters, each read out by an amplifier of its own."""
    size = len(response)
    halves = slice(0, size // 2), slice(size // 2, size)
    for rows in halves if rng.integers(2) else (slice(0, size),):
        for columns in halves:
            response[rows, columns] *= rng.normal(1, 0.02)
            read_noise[rows, columns] *= np.exp(rng.normal(0, 0.3))
            offset[rows, columns] += rng.normal(0, 3) * detector.noise


def expose(
    light: Floats,
    detector: Detector,
    rng: np.random.Generator,
    uneven: Unevenness | None = None,
    sky: Floats | None = None,
) -> tuple[Floats, Floats | None]:
    """Photon and read noise on light and sky (drawn where it is not given), on a pedestal-free detector.

    Returns
    -------
    pixels : ndarray, shape (H, W)
        ADU.
    noise : ndarray, shape (H, W), or None
        Standard deviation of every pixel had it no light but the sky's, before smoothing, in ADU; None for a camera
        that is even, where it is `detector.noise` all over but for the sky's gradient.
    """
    sky = sky_background(light.shape, detector.sky, rng) if sky is None else sky
    if uneven is not None:
        sky = sky + detector.sky * uneven.fringes
        expected = np.clip((light + sky) * uneven.response, 0, None)
        read_noise: Floats | float = uneven.read_noise
        empty = np.clip(sky * uneven.response, 0, None) / detector.gain
        noise = np.sqrt(empty + (uneven.read_noise / detector.gain) ** 2)
    else:
        expected, read_noise, noise = np.clip(light + sky, 0, None), detector.read_noise, None
    electrons = rng.poisson(expected * detector.gain) + rng.normal(0, read_noise, light.shape)
    grain = electrons / detector.gain - expected
    if detector.smoothing:
        grain = gaussian_filter(grain, detector.smoothing)
    pixels = np.asarray(expected + grain)
    return (pixels, None) if uneven is None else (pixels + uneven.offset, noise)


def to_hdu(pixels: Floats, detector: Detector, rng: np.random.Generator) -> fits.PrimaryHDU:
    """Quantise as a camera does, or leave as a reduced frame is."""
    if detector.step:
        pixels = np.round(pixels / detector.step) * detector.step
    if rng.random() < 0.6:
        hdu = fits.PrimaryHDU(np.clip(np.round(pixels), 0, 65535).astype(np.uint16))
    else:
        hdu = fits.PrimaryHDU(pixels.astype(np.float32))
    hdu.header["GAIN"] = (detector.gain, "electrons per ADU")
    hdu.header["RDNOISE"] = (detector.read_noise, "electrons")
    hdu.header["SATURATE"] = (np.floor(detector.saturation), "ADU")
    return hdu
